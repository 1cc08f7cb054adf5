//go:build guest

package crypt_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/dm"
	"layervault/crypt/luks2"
)

func device(t testing.TB, readOnly bool) *testImage {
	t.Helper()
	dir := t.TempDir()
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &testImage{
		Image:  crypt.Image{Path: filepath.Join(dir, "image.luks"), Label: "test", ReadOnly: readOnly, Owner: owner, Key: passphrase},
		mnt:    mnt,
		making: crypt.Making{Templates: new(crypt.Templates)},
	}
	t.Cleanup(func() { _ = d.put() })
	return d
}

// gone waits until the kernel has taken down everything that belongs to an image.
func gone(t testing.TB, uuid, path string) {
	t.Helper()
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := control.Info(crypt.DeviceName(uuid))
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		attached := ""
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), filepath.Dir(path)) {
				attached = f
			}
		}
		if errors.Is(err, dm.ErrNotExist) && attached == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("device still there: %v, loop: %q", err, attached)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func sh(t testing.TB, command string, args ...string) string {
	t.Helper()
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
	return string(out)
}

// noKey: no key with this in its description is left in the kernel. An invalidated key opens nothing but is listed until the kernel's
// collector comes round, on its own time.
func noKey(t *testing.T, description string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out := sh(t, "cat", "/proc/keys")
		if !strings.Contains(out, description) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the key is still in a keyring: %s", out)
		}
	}
}

func TestWritable(t *testing.T) {
	d := device(t, writable)
	ctx := t.Context()
	must(t, d.create(ctx, 64<<30))
	var st unix.Stat_t
	must(t, unix.Stat(d.Path, &st))
	if st.Size != 64<<30+1<<20 || st.Blocks*512 > 8<<20 {
		t.Errorf("empty image: %d bytes, %d on disk", st.Size, st.Blocks*512)
	}
	t.Logf("empty 64 GiB image: %d KiB on disk", st.Blocks/2)
	if err := d.create(ctx, 64<<30); !errors.Is(err, crypt.ErrExists) {
		t.Errorf("second Create: %v", err)
	}
	must(t, d.get(ctx))
	uuid, err := d.UUID()
	must(t, err)
	if info, err := os.Stat(filepath.Join(d.mnt, "diff")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("diff: %v, %v", info, err)
	}
	file := filepath.Join(d.mnt, "diff", "hello")
	must(t, os.WriteFile(file, []byte("written through the mount"), 0o600))
	table := sh(t, "dmsetup", "table", "--showkeys", crypt.DeviceName(uuid))
	t.Log(table)
	key := volumeKey(t, d)
	if strings.Contains(table, fmt.Sprintf("%x", key)) || !strings.Contains(table, ":64:logon:layervault:"+uuid) {
		t.Errorf("table: %s", table)
	}
	noKey(t, uuid)
	// A second mount of the open device sees the same files, and needs the key: what the
	// header says must be the image's.
	second := *d
	second.mnt = t.TempDir()
	second.Key = func(context.Context, int, string) ([]byte, error) { return []byte("wrong"), nil }
	if err := second.get(ctx); !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Errorf("open already, with a wrong key: %v", err)
	}
	second.Key = passphrase
	must(t, second.get(ctx))
	must(t, d.put())
	if _, err := os.Stat(filepath.Join(second.mnt, "diff", "hello")); err != nil {
		t.Error(err)
	}
	must(t, second.put())
	must(t, second.put()) // not mounted is no error
	gone(t, uuid, d.Path)
	cryptsetupReads(t, d, "diff/hello", "written through the mount")
	must(t, d.get(ctx))
	if b, err := os.ReadFile(file); err != nil || string(b) != "written through the mount" {
		t.Errorf("after a second opening: %q, %v", b, err)
	}
	must(t, d.put())
	must(t, d.Remove(ctx))
	must(t, d.Remove(ctx))
	gone(t, uuid, d.Path)
	if err := d.get(ctx); !errors.Is(err, crypt.ErrNotExist) {
		t.Errorf("Get of a removed image: %v", err)
	}
}

func volumeKey(t testing.TB, d *testImage) []byte {
	t.Helper()
	f, err := os.Open(d.Path)
	must(t, err)
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	must(t, err)
	pass, _ := passphrase(t.Context(), h.Format(), h.UUID())
	key, _, err := h.Unlock(f, pass)
	must(t, err)
	return key
}

// cryptsetupReads opens an image with the stock tools alone.
func cryptsetupReads(t testing.TB, d *testImage, name, want string) {
	t.Helper()
	uuid, err := d.UUID()
	must(t, err)
	pass, _ := passphrase(t.Context(), luks2.Format2, uuid)
	keyFile := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(keyFile, pass, 0o600))
	sh(t, "cryptsetup", "open", "--readonly", "--key-file", keyFile, d.Path, "stock")
	defer sh(t, "cryptsetup", "close", "stock")
	fs := strings.TrimSpace(sh(t, "blkid", "-p", "-o", "value", "-s", "TYPE", "/dev/mapper/stock"))
	if fs == "ext4" {
		sh(t, "e2fsck", "-fn", "/dev/mapper/stock")
	}
	mnt := t.TempDir()
	must(t, unix.Mount("/dev/mapper/stock", mnt, fs, unix.MS_RDONLY, ""))
	defer func() { must(t, unix.Unmount(mnt, 0)) }()
	if b, err := os.ReadFile(filepath.Join(mnt, name)); err != nil || string(b) != want {
		t.Errorf("through cryptsetup: %q, %v", b, err)
	}
}

func layerTar(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range files {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}))
		_, err := io.WriteString(w, body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func TestSealed(t *testing.T) {
	d := device(t, readOnly)
	ctx := t.Context()
	files := map[string]string{"a/b": "first", "big": strings.Repeat("0123456789abcdef", 1<<18), "c": ""}
	result, err := d.load(ctx, bytes.NewReader(layerTar(t, files)))
	must(t, err)
	info, err := os.Stat(d.Path)
	must(t, err)
	if result.Size != 5+16<<18 || result.Bytes != info.Size() || result.Bytes > 16<<18+2<<20 {
		t.Errorf("%+v, file of %d", result, info.Size())
	}
	gone(t, result.UUID, d.Path)
	must(t, d.get(ctx))
	for name, want := range files {
		b, err := os.ReadFile(filepath.Join(d.mnt, "diff", name))
		if err != nil || string(b) != want {
			t.Errorf("%s: %d bytes, want %d, %v", name, len(b), len(want), err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.mnt, "diff/x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v", err)
	}
	must(t, d.put())
	gone(t, result.UUID, d.Path)
	cryptsetupReads(t, d, "diff/a/b", "first")
	onlyImage(t, d)
}

// More names and inodes than are kept in memory: they are set aside on the device itself,
// and nothing of that is left in the image.
func TestSealedManyFiles(t *testing.T) {
	const count = 70000
	d := device(t, readOnly)
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	name := func(i int) string { return fmt.Sprintf("%d/%s%d", i/500, strings.Repeat("n", 70), i) }
	for i := range count {
		must(t, w.WriteHeader(&tar.Header{Name: name(i), Mode: 0o600, Uid: i % 1000}))
	}
	for i := 0; i < count; i += 1000 { // replaced, linked: what was set aside changes
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: fmt.Sprintf("links/%d", i), Linkname: name(i), Uid: 7, Mode: 0o640}))
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name(i + 1), Linkname: "target"}))
	}
	must(t, w.Close())
	result, err := d.load(t.Context(), &body)
	must(t, err)
	var image unix.Stat_t
	must(t, unix.Stat(d.Path, &image))
	if used := image.Blocks * 512; used > 48<<20 { // it has holes
		t.Errorf("the image takes %d bytes", used)
	}
	must(t, d.get(t.Context()))
	for i := range count {
		if i%1000 > 1 && i%97 != 0 {
			continue
		}
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(d.mnt, "diff", name(i)), &st))
		switch {
		case i%1000 == 0 && (st.Uid != 7 || st.Mode != unix.S_IFREG|0o640 || st.Nlink != 2),
			i%1000 == 1 && st.Mode&unix.S_IFMT != unix.S_IFLNK,
			i%1000 > 1 && (st.Uid != uint32(i%1000) || st.Mode != unix.S_IFREG|0o600 || st.Nlink != 1):
			t.Fatalf("%s: %+v", name(i), st)
		}
	}
	must(t, d.put())
	gone(t, result.UUID, d.Path)
}

// onlyImage wants nothing but the image in its directory.
func onlyImage(t testing.TB, d *testImage) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(d.Path))
	must(t, err)
	for _, e := range entries {
		if n := e.Name(); n != "mnt" && n != filepath.Base(d.Path) {
			t.Errorf("%s is left", n)
		}
	}
}

func TestCiphers(t *testing.T) {
	for _, cipher := range []string{luks2.CipherXTS, luks2.CipherESSIV, luks2.CipherAdiantum} {
		for _, size := range []int{512, 4096} {
			t.Run(fmt.Sprint(cipher, " ", size), func(t *testing.T) {
				w, s := device(t, writable), device(t, readOnly)
				w.making.Params = crypt.Params{Cipher: cipher, SectorSize: size}
				s.making.Params = w.making.Params
				must(t, w.create(t.Context(), 32<<20))
				must(t, w.get(t.Context()))
				must(t, os.WriteFile(filepath.Join(w.mnt, "diff/f"), []byte("x"), 0o600))
				must(t, w.put())
				_, err := s.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"f": "y"})))
				must(t, err)
				must(t, s.get(t.Context()))
				must(t, s.put())
				for d, want := range map[*testImage]string{w: "x", s: "y"} {
					uuid, err := d.UUID()
					must(t, err)
					gone(t, uuid, d.Path)
					cryptsetupReads(t, d, "diff/f", want)
				}
			})
		}
	}
}

func TestGetPutAtOnce(t *testing.T) {
	d := device(t, readOnly)
	result, err := d.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"f": "content"})))
	must(t, err)
	var wg sync.WaitGroup
	for range 20 {
		each := *d
		each.mnt = t.TempDir()
		wg.Go(func() {
			for range 10 {
				if err := each.get(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if b, err := os.ReadFile(filepath.Join(each.mnt, "diff/f")); err != nil || string(b) != "content" {
					t.Errorf("%q, %v", b, err)
				}
				if err := each.put(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	gone(t, result.UUID, d.Path)
}

func TestHold(t *testing.T) {
	d := device(t, readOnly)
	result, err := d.load(t.Context(), bytes.NewReader(layerTar(t, nil)))
	must(t, err)
	must(t, d.get(t.Context()))
	held, err := d.hold()
	must(t, err)
	must(t, d.put())
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	if info, err := control.Info(crypt.DeviceName(result.UUID)); err != nil || !info.Deferred {
		t.Errorf("%+v, %v", info, err)
	}
	must(t, crypt.Sweep(t.Context())) // what is held stays
	must(t, held.Mount(d.mnt))
	if _, err := os.Stat(filepath.Join(d.mnt, crypt.DirDiff)); err != nil {
		t.Error(err)
	}
	must(t, d.put())
	must(t, d.get(t.Context()))
	must(t, d.put())
	must(t, held.Close())
	gone(t, result.UUID, d.Path)
}

func TestImportFails(t *testing.T) {
	whole := layerTar(t, map[string]string{"f": strings.Repeat("x", 3<<20)})
	for name, body := range map[string]io.Reader{
		"cut off": bytes.NewReader(whole[:len(whole)/2]),
		"garbage": bytes.NewReader(bytes.Repeat([]byte("z"), 10000)),
	} {
		t.Run(name, func(t *testing.T) {
			d := device(t, readOnly)
			if _, err := d.load(t.Context(), body); err == nil {
				t.Error("no error")
			}
			if _, err := os.Stat(d.Path); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			onlyImage(t, d)
		})
	}
	if out := sh(t, "dmsetup", "ls"); strings.Contains(out, "layervault-") {
		t.Error(out)
	}
}

func TestWrongKey(t *testing.T) {
	d := device(t, readOnly)
	_, err := d.load(t.Context(), bytes.NewReader(layerTar(t, nil)))
	must(t, err)
	for _, c := range []struct {
		key  crypt.KeyFunc
		want error
	}{
		{nil, crypt.ErrNoKeyFunc},
		{func(context.Context, int, string) ([]byte, error) { return nil, nil }, crypt.ErrNoKeyFunc},
		{func(context.Context, int, string) ([]byte, error) { return []byte("wrong"), nil }, luks2.ErrNoKey},
		{func(context.Context, int, string) ([]byte, error) { return nil, io.ErrNoProgress }, io.ErrNoProgress},
	} {
		d.Key = c.key
		if err := d.get(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

// A mount that fails is an error, and leaves nothing open.
func TestMountFails(t *testing.T) {
	d := device(t, readOnly)
	result, err := d.load(t.Context(), bytes.NewReader(layerTar(t, nil)))
	must(t, err)
	d.mnt += "/missing"
	if err := d.get(t.Context()); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	gone(t, result.UUID, d.Path)
	d.mnt = filepath.Dir(d.mnt)
	// The file is cut off, in its data.
	must(t, os.Truncate(d.Path, result.Bytes-8192))
	if err := d.get(t.Context()); !errors.Is(err, luks2.ErrDamaged) {
		t.Error(err)
	}
	gone(t, result.UUID, d.Path)
}

func TestDamagedHeader(t *testing.T) {
	d := device(t, writable)
	must(t, d.create(t.Context(), 32<<20))
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	must(t, err)
	defer func() { _ = f.Close() }()
	_, err = f.WriteAt([]byte("damage"), 5000)
	must(t, err)
	must(t, d.get(t.Context()))
	must(t, d.put())
	h, err := luks2.Read(f)
	must(t, err)
	if h.NeedsRepair() {
		t.Error("not repaired")
	}
	gone(t, h.UUID(), d.Path)
	for _, at := range []int64{5000, 16<<10 + 5000} {
		_, err = f.WriteAt([]byte("damage"), at)
		must(t, err)
	}
	before := sh(t, "sha256sum", d.Path)
	if err := d.get(t.Context()); !errors.Is(err, luks2.ErrDamaged) {
		t.Error(err)
	}
	if sh(t, "sha256sum", d.Path) != before {
		t.Error("a damaged image was changed")
	}
}

func TestCancelled(t *testing.T) {
	d := device(t, readOnly)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(layerTar(t, map[string]string{"f": strings.Repeat("x", 1<<20)})[:1<<20])
		cancel()
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if _, err := d.load(ctx, r); err == nil {
		t.Error("no error")
	}
	onlyImage(t, d)
	if err := device(t, writable).create(ctx, 32<<20); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestNoSpace(t *testing.T) {
	small := t.TempDir()
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=24m"))
	defer func() { must(t, unix.Unmount(small, unix.MNT_DETACH)) }()
	d := device(t, readOnly)
	d.Path = filepath.Join(small, "image.luks")
	random := make([]byte, 40<<20)
	for i := range random {
		random[i] = byte(i*i>>8 | 1)
	}
	if _, err := d.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"f": string(random)}))); !errors.Is(err, crypt.ErrNoSpace) {
		t.Error(err)
	}
	onlyImage(t, d)
}

func TestUncleanStop(t *testing.T) {
	d := device(t, writable)
	must(t, d.create(t.Context(), 64<<20))
	must(t, d.get(t.Context()))
	must(t, os.WriteFile(filepath.Join(d.mnt, "diff/f"), []byte("x"), 0o600))
	sh(t, "sync")
	// A copy of an image that is mounted is what a power cut leaves.
	cut := device(t, writable)
	sh(t, "cp", "--sparse=always", d.Path, cut.Path)
	must(t, d.put())
	uuid, err := d.UUID()
	must(t, err)
	gone(t, uuid, d.Path)
	must(t, cut.get(t.Context()))
	if _, err := os.Stat(filepath.Join(cut.mnt, "diff/f")); err != nil {
		t.Error(err)
	}
	must(t, cut.put())
	gone(t, uuid, cut.Path)
	cryptsetupReads(t, cut, "diff/f", "x")
}
