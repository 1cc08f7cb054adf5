package erofs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"layervault/crypt/fswriter"
	"layervault/crypt/loop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var plain = Meta{Mode: 0o644, Mtime: time.Unix(1500000000, 123456789)}

// disk is a file that takes what a device opened with O_DIRECT takes: whole blocks at
// aligned offsets, from aligned memory.
type disk struct{ *os.File }

func (d disk) WriteAt(b []byte, at int64) (int, error) {
	if at%blockSize != 0 || len(b)%blockSize != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%blockSize != 0 {
		return 0, fmt.Errorf("%d bytes from %p at %d: %w", len(b), b, at, unix.EINVAL)
	}
	return d.File.WriteAt(b, at)
}

func (d disk) ReadAt(b []byte, at int64) (int, error) {
	if at%blockSize != 0 || len(b)%blockSize != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%blockSize != 0 {
		return 0, fmt.Errorf("%d bytes to %p at %d: %w", len(b), b, at, unix.EINVAL)
	}
	return d.File.ReadAt(b, at)
}

func newDisk(t *testing.T) disk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return disk{f}
}

// finish closes the image, has it checked, and mounts it.
func finish(t *testing.T, w *Writer, d disk) (dir string) {
	t.Helper()
	size, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.erofs", d.Name()).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 && !bytes.Contains(out, []byte("No errors found")) {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	return mount(t, d.File)
}

func mount(t *testing.T, f *os.File) (dir string) {
	t.Helper()
	l, err := loop.Attach(context.Background(), f, loop.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir = t.TempDir()
	if err := unix.Mount(l.Name(), dir, "erofs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// Directories whose names fill many blocks, long ones with a common beginning, and ones
// that sort before "." and "..": each name is found by look-up, none twice.
func TestLargeDirectories(t *testing.T) {
	d := newDisk(t)
	w := New(t.Context(), d, fswriter.Options{})
	defer w.Abort()
	long := strings.Repeat("n", 249)
	for name, spell := range map[string]func(i int) string{
		"many":  func(i int) string { return fmt.Sprintf("%d-file", i*7919%70000) },
		"long":  func(i int) string { return fmt.Sprintf("%s%06d", long, i*31%6000) },
		"few":   func(i int) string { return "!-.+ab~\xff"[i:i+1] + "x" },
		"alike": func(i int) string { return "a" + strings.Repeat("a", i) },
	} {
		count := map[string]int{"many": 70000, "long": 6000, "few": 8, "alike": 255}[name]
		dir := must[Inode](t)(w.Mkdir(w.Root(), name, Meta{Mode: 0o755}))
		for i := range count {
			must[Inode](t)(w.Special(dir, spell(i), fswriter.FIFO, 0, 0, plain))
		}
		defer func() {
			for i := range count {
				if _, err := os.Lstat(filepath.Join(d.Name()+".mnt", name, spell(i))); err != nil {
					t.Fatal(err)
				}
			}
			if list, err := os.ReadDir(filepath.Join(d.Name()+".mnt", name)); err != nil || len(list) != count {
				t.Errorf("%s: %d names, want %d, %v", name, len(list), count, err)
			}
		}()
	}
	if err := os.Symlink(finish(t, w, d), d.Name()+".mnt"); err != nil {
		t.Fatal(err)
	}
}

// islands reads as zeros but for a few places.
type islands struct {
	at   int64
	size int64
	text map[int64]string
}

func (r *islands) Read(p []byte) (int, error) {
	if r.at == r.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.size-r.at)]
	clear(p)
	for at, text := range r.text {
		if at < r.at+int64(len(p)) && at+int64(len(text)) > r.at {
			if at >= r.at {
				copy(p[at-r.at:], text)
			} else {
				copy(p, text[r.at-at:])
			}
		}
	}
	r.at += int64(len(p))
	return len(p), nil
}

// Files of more than 4 GiB, and of more than 16 GiB whose holes are larger: what is not
// zero is found, and the rest takes no room.
func TestSparse(t *testing.T) {
	d := newDisk(t)
	w := New(t.Context(), d, fswriter.Options{})
	defer w.Abort()
	files := map[string]*islands{
		"5g":      {size: 5<<30 + 17, text: map[int64]string{3<<30 - 2: "island", 5<<30 + 10: "end"}},
		"17g":     {size: 17<<30 + 4095, text: map[int64]string{100 << 10: "near", 16<<30 + 70000: "far", 17<<30 + 4090: "end"}},
		"first":   {size: 300 << 10, text: map[int64]string{0: "first"}},
		"last":    {size: 300 << 10, text: map[int64]string{300<<10 - 4: "last"}},
		"tail":    {size: 64<<10 + 5, text: map[int64]string{0: "full", 64<<10 + 1: "x"}},
		"nothing": {size: 4096},
		"odd":     {size: 4099},
	}
	for name, r := range files {
		must[Inode](t)(w.File(w.Root(), name, plain, r.size, r))
	}
	dir := finish(t, w, d)
	if info := must[os.FileInfo](t)(d.Stat()); info.Size() > 4<<20 {
		t.Errorf("%d bytes", info.Size())
	}
	for name, r := range files {
		f := must[*os.File](t)(os.Open(filepath.Join(dir, name)))
		if info := must[os.FileInfo](t)(f.Stat()); info.Size() != r.size {
			t.Errorf("%s: %d bytes", name, info.Size())
		}
		for at, text := range r.text {
			for _, begin := range []int64{max(0, at-70000), at} {
				n := min(140000, r.size-begin)
				got := make([]byte, n)
				if _, err := f.ReadAt(got, begin); err != nil {
					t.Error(err)
				}
				want := make([]byte, n)
				if _, err := io.ReadFull(&islands{at: begin, size: r.size, text: r.text}, want); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s differs near %d, %q", name, at, text)
				}
			}
		}
		_ = f.Close()
	}
}

// Attributes that come when a file is written already: the inode moves, with its tail,
// and where that has no room any more the content does.
func TestLaterAttributes(t *testing.T) {
	d := newDisk(t)
	w := New(t.Context(), d, fswriter.Options{})
	defer w.Abort()
	attrs := func(n int) map[string][]byte {
		return map[string][]byte{"user.a": bytes.Repeat([]byte("a"), n), "user.b": []byte("b")}
	}
	sizes := []int{0, 1, 1000, 4000, 4096, 5000, 4096*3 + 4000, 300000}
	inodes := map[string]Inode{}
	for _, size := range sizes {
		for _, n := range []int{1, 100, 3000} {
			name := fmt.Sprint(size, " ", n)
			inodes[name] = must[Inode](t)(w.File(w.Root(), name, plain, int64(size), bytes.NewReader(randomBytes(size))))
		}
	}
	sparse := must[Inode](t)(w.File(w.Root(), "sparse", plain, 1<<30, &islands{size: 1 << 30, text: map[int64]string{1 << 29: "x"}}))
	link := must[Inode](t)(w.Symlink(w.Root(), "link", strings.Repeat("t", 4000), plain))
	for round := range 2 { // while blocks are being filled, and when they are written
		for name, i := range inodes {
			var size, n int
			_, _ = fmt.Sscan(name, &size, &n)
			if err := w.SetMeta(i, Meta{Mode: 0o600, UID: 7, GID: uint32(round), Mtime: plain.Mtime, Xattrs: attrs(n + round)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.SetMeta(sparse, Meta{Mode: 0o600, Mtime: plain.Mtime, Xattrs: attrs(round + 50)}); err != nil {
			t.Fatal(err)
		}
		if err := w.SetMeta(link, Meta{UID: 3, Xattrs: map[string][]byte{"trusted.x": bytes.Repeat([]byte("x"), 500+round)}}); err != nil {
			t.Fatal(err)
		}
		for i := range 4000 {
			must[Inode](t)(w.File(w.Root(), fmt.Sprint("fill", round, i), plain, 700, bytes.NewReader(randomBytes(700))))
		}
	}
	dir := finish(t, w, d)
	for name := range inodes {
		var size, n int
		_, _ = fmt.Sscan(name, &size, &n)
		path := filepath.Join(dir, name)
		if got := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(got, randomBytes(size)) {
			t.Errorf("%s: content differs, %d bytes", name, len(got))
		}
		value := make([]byte, 5000)
		for attr, want := range attrs(n + 1) {
			if k, err := unix.Lgetxattr(path, attr, value); err != nil || !bytes.Equal(value[:k], want) {
				t.Errorf("%s: %s: %d bytes, %v", name, attr, k, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Uid != 7 || st.Gid != 1 || st.Mode != unix.S_IFREG|0o600 || st.Nlink != 1 {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != strings.Repeat("t", 4000) {
		t.Errorf("link: %d bytes, %v", len(target), err)
	}
	f := must[*os.File](t)(os.Open(filepath.Join(dir, "sparse")))
	defer func() { _ = f.Close() }()
	b := make([]byte, 2)
	if _, err := f.ReadAt(b, 1<<29); err != nil || string(b) != "x\x00" {
		t.Errorf("sparse: %q, %v", b, err)
	}
}

// Attributes that many files have are kept once.
func TestSharedAttributes(t *testing.T) {
	size := func(distinct bool) int64 {
		d := newDisk(t)
		w := New(t.Context(), d, fswriter.Options{})
		defer w.Abort()
		for i := range 2000 {
			m := plain
			m.Xattrs = map[string][]byte{"security.selinux": bytes.Repeat([]byte("s"), 300)}
			if distinct {
				copy(m.Xattrs["security.selinux"], fmt.Sprint(i, " "))
			}
			must[Inode](t)(w.File(w.Root(), fmt.Sprint(i), m, 3, strings.NewReader("abc")))
		}
		dir := finish(t, w, d)
		value := make([]byte, 400)
		for _, name := range []string{"0", "1", "1999"} {
			if k, err := unix.Lgetxattr(filepath.Join(dir, name), "security.selinux", value); err != nil || k != 300 {
				t.Errorf("%s: %d bytes, %v", name, k, err)
			}
		}
		return must[os.FileInfo](t)(d.Stat()).Size()
	}
	if a, b := size(false), size(true); a > b/2 {
		t.Errorf("%d bytes, with attributes that differ %d", a, b)
	}
}

// Small files share blocks: an image is smaller than the tar.
func TestSmallFilesShareBlocks(t *testing.T) {
	d := newDisk(t)
	w := New(t.Context(), d, fswriter.Options{})
	defer w.Abort()
	random, tar := rand.New(rand.NewPCG(1, 2)), int64(0)
	for i := range 10000 {
		size := 100 + random.IntN(1400)
		must[Inode](t)(w.File(w.Root(), fmt.Sprint("file-", i), plain, int64(size), bytes.NewReader(randomBytes(size))))
		tar += 512 + int64(size+511)&^511
	}
	size := must[int64](t)(w.Close())
	if ratio := float64(size) / float64(tar); ratio > 0.62 {
		t.Errorf("image takes %.3f of the tar", ratio)
	}
}

// What was given up is no file system, whenever that is.
func TestUnfinished(t *testing.T) {
	d := newDisk(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := New(ctx, d, fswriter.Options{})
	must[Inode](t)(w.File(w.Root(), "f", plain, 9000, bytes.NewReader(randomBytes(9000))))
	cancel()
	if _, err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.Abort()
	b := make([]byte, blockSize)
	if _, err := d.File.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if le.Uint32(b[superOffset:]) == magic {
		t.Error("there is a superblock")
	}
	if _, err := w.Mkdir(w.Root(), "d", plain); !errors.Is(err, fswriter.ErrClosed) {
		t.Error(err)
	}
}

// An image made by the first version of this package stays readable.
func TestFixture(t *testing.T) {
	packed := must[*os.File](t)(os.Open("testdata/v1.erofs.gz"))
	defer func() { _ = packed.Close() }()
	r := must[*gzip.Reader](t)(gzip.NewReader(packed))
	d := newDisk(t)
	if _, err := io.Copy(d.File, r); err != nil {
		t.Fatal(err)
	}
	dir := mount(t, d.File)
	for name, want := range map[string]string{"d/small": "text", "hard": "text", "d/large": strings.Repeat("0123456789", 1000)} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "sparse")); err != nil || info.Size() != 1<<20 || !info.ModTime().Equal(plain.Mtime) {
		t.Errorf("sparse: %v, %v", info, err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "d/small" {
		t.Errorf("%q, %v", target, err)
	}
	value := make([]byte, 10)
	if n, err := unix.Lgetxattr(filepath.Join(dir, "d"), "trusted.overlay.opaque", value); err != nil || string(value[:n]) != "y" {
		t.Errorf("%q, %v", value[:max(n, 0)], err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// writeFixture makes what testdata/v1.erofs.gz holds, run by hand.
func writeFixture(t *testing.T, d disk) {
	w := New(t.Context(), d, fswriter.Options{Label: "fixture", Now: plain.Mtime})
	dir := must[Inode](t)(w.Mkdir(w.Root(), "d", Meta{Mode: 0o755, Mtime: plain.Mtime}))
	small := must[Inode](t)(w.File(dir, "small", plain, 4, strings.NewReader("text")))
	must[Inode](t)(w.File(dir, "large", plain, 10000, strings.NewReader(strings.Repeat("0123456789", 1000))))
	must[Inode](t)(w.File(w.Root(), "sparse", plain, 1<<20, &islands{size: 1 << 20, text: map[int64]string{1 << 19: "x"}}))
	must[Inode](t)(w.Symlink(w.Root(), "link", "d/small", plain))
	must[Inode](t)(w.Special(w.Root(), "gone", fswriter.CharDevice, 0, 0, plain))
	if err := errors.Join(w.Link(w.Root(), "hard", small), w.SetXattr(dir, "trusted.overlay.opaque", "y")); err != nil {
		t.Fatal(err)
	}
	finish(t, w, d)
}

// The image of today's version is read as that of the first.
func TestFixtureAnew(t *testing.T) {
	d := newDisk(t)
	writeFixture(t, d)
	if path := os.Getenv("LAYERVAULT_TEST_WRITE_FIXTURE"); path != "" {
		out := must[*os.File](t)(os.Create(path))
		z := gzip.NewWriter(out)
		if _, err := io.Copy(z, io.NewSectionReader(d.File, 0, 1<<40)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(z.Close(), out.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
