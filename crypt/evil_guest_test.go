//go:build guest

package crypt_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/dm"
	"layervault/crypt/luks2"
)

// keyFile puts an image's passphrase where cryptsetup reads it.
func keyFile(t testing.TB, d *testImage) string {
	t.Helper()
	format, uuid, err := d.Identify()
	must(t, err)
	pass, err := passphrase(t.Context(), format, uuid)
	must(t, err)
	name := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(name, pass, 0o600))
	return name
}

// dmNode is the node of a device-mapper device; there is no udev here to make names.
func dmNode(t testing.TB, name string) string {
	t.Helper()
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	info, err := control.Info(name)
	must(t, err)
	return info.Node()
}

// filled is a writable image with a file in it, closed.
func filled(t *testing.T, body string) (d *testImage, uuid string) {
	t.Helper()
	d = device(t, writable)
	must(t, d.create(t.Context(), 32<<20))
	must(t, d.get(t.Context()))
	must(t, os.WriteFile(filepath.Join(d.mnt, "diff/f"), []byte(body), 0o600))
	must(t, d.put())
	uuid, err := d.UUID()
	must(t, err)
	gone(t, uuid, d.Path)
	return d, uuid
}

// copied is the device of a copy of an image.
func copied(t *testing.T, of *testImage) *testImage {
	t.Helper()
	d := device(t, of.ReadOnly)
	sh(t, "cp", "--sparse=always", of.Path, d.Path)
	return d
}

// wantHolder wants a *HolderError that names these.
func wantHolder(t *testing.T, err error, names ...string) {
	t.Helper()
	var h *crypt.HolderError
	if !errors.As(err, &h) || !errors.Is(err, crypt.ErrInUse) {
		t.Errorf("%v, want a holder", err)
		return
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// The attacker's file system, in the clear, in the place of the data, and a header that says
// so. The control: stock cryptsetup, with the genuine passphrase, shows it.
func TestEvilMaidNullCipher(t *testing.T) {
	d, uuid := filled(t, "genuine")
	untouched := copied(t, d)
	fs := filepath.Join(t.TempDir(), "evil.ext4")
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "diff"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "diff/f"), []byte("evil"), 0o644))
	sh(t, "truncate", "-s", "24M", fs)
	sh(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-d", root, fs)
	sh(t, "dd", "if="+fs, "of="+d.Path, "bs=1M", "seek=1", "conv=notrunc", "status=none")
	// As stock cryptsetup knows it; the kernel's form with many keys is the same attack.
	forge(t, d.Path, bothCopies, 0, encryption("cipher_null-ecb"))

	sh(t, "cryptsetup", "open", "--key-file", keyFile(t, d), d.Path, "evil")
	mnt := t.TempDir()
	must(t, unix.Mount(dmNode(t, "evil"), mnt, "ext4", 0, ""))
	if b, err := os.ReadFile(filepath.Join(mnt, "diff/f")); err != nil || string(b) != "evil" {
		t.Errorf("control: %q, %v", b, err)
	}
	must(t, unix.Unmount(mnt, 0))
	sh(t, "cryptsetup", "close", "evil")

	for _, cipher := range []string{"cipher_null-ecb", "cipher_null:128-ecb", "cipher_null-ecb - 0 7:1 2048 0"} {
		forge(t, d.Path, bothCopies, 0, encryption(cipher))
		err := d.get(t.Context())
		if !errors.Is(err, luks2.ErrForbidden) || !strings.Contains(err.Error(), "segments.0.encryption") {
			t.Errorf("%s: %v", cipher, err)
		}
		if entries, err := os.ReadDir(d.mnt); err != nil || len(entries) > 0 {
			t.Errorf("%s: something is mounted: %v, %v", cipher, entries, err)
		}
		gone(t, uuid, d.Path)
	}
	must(t, untouched.get(t.Context()))
	if b, err := os.ReadFile(filepath.Join(untouched.mnt, "diff/f")); err != nil || string(b) != "genuine" {
		t.Errorf("the untouched image: %q, %v", b, err)
	}
	must(t, untouched.put())
	gone(t, uuid, untouched.Path)
}

// A file that was copied over another image's while the first is open has the UUID of a
// device that is there. The control: by UUID alone that device is found.
func TestEvilMaidCopyOfAnOpenImage(t *testing.T) {
	a, uuid := filled(t, "content of a")
	must(t, a.get(t.Context()))
	b := copied(t, a)
	b.ID = "b"
	b.Key = func(ctx context.Context, format int, uuid string) ([]byte, error) {
		pass, err := passphrase(ctx, format, uuid)
		return append(pass, 'b'), err
	}
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	if info, err := control.InfoByUUID("CRYPT-LUKS2-" + strings.ReplaceAll(uuid, "-", "") + "-" + crypt.DeviceName(uuid)); err != nil || !info.Active {
		t.Errorf("control: %+v, %v", info, err)
	}
	var refused *luks2.HeaderError
	if err := b.get(t.Context()); !errors.As(err, &refused) || refused.Field() != "id" {
		t.Errorf("another id: %v", err)
	}
	// As the same image, with its key: it is another file.
	same := copied(t, a)
	wantHolder(t, same.get(t.Context()), same.Path, a.Path, crypt.DeviceName(uuid), a.mnt)
	if n, err := same.Opened(); err != nil || n != 0 {
		t.Errorf("the copy is open as %d, %v", n, err)
	}
	if n, err := a.Opened(); err != nil || n == 0 {
		t.Errorf("the original is open as %d, %v", n, err)
	}
	must(t, a.put())
	gone(t, uuid, a.Path)
	must(t, same.get(t.Context()))
	must(t, same.put())
	gone(t, uuid, same.Path)
}

// A restored image that is moved over one that is open is not the open one.
func TestRestoredOverAnOpenImage(t *testing.T) {
	d, uuid := filled(t, "before the restore")
	restored := copied(t, d)
	must(t, d.get(t.Context()))
	must(t, os.WriteFile(filepath.Join(d.mnt, "diff/new"), nil, 0o600))
	must(t, os.Rename(restored.Path, d.Path))
	again := *d
	again.mnt = t.TempDir()
	wantHolder(t, again.get(t.Context()), d.Path, "(deleted)", d.mnt)
	must(t, d.put())
	gone(t, uuid, d.Path)
	must(t, again.get(t.Context()))
	if _, err := os.Stat(filepath.Join(again.mnt, "diff/new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old content is shown: %v", err)
	}
	must(t, again.put())
	gone(t, uuid, d.Path)
}

// What stock cryptsetup has open is not opened a second time: two file systems that know
// nothing of each other would destroy what is in it.
func TestHeldByCryptsetup(t *testing.T) {
	for _, sealed := range []bool{writable, readOnly} {
		d := device(t, sealed)
		if !sealed {
			must(t, d.create(t.Context(), 32<<20))
		} else {
			d.making.FileSystem = crypt.Ext4 // as it is mounted below
			_, err := d.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"f": "x"})))
			must(t, err)
		}
		uuid, err := d.UUID()
		must(t, err)
		gone(t, uuid, d.Path)
		sh(t, "cryptsetup", "open", "--key-file", keyFile(t, d), d.Path, "stock-holder")
		mnt := t.TempDir()
		must(t, unix.Mount(dmNode(t, "stock-holder"), mnt, "ext4", 0, ""))
		wantHolder(t, d.get(t.Context()), "stock-holder", mnt, d.Path)
		if n, err := d.Opened(); err != nil || n == 0 {
			t.Errorf("sealed %t: open as %d, %v", sealed, n, err)
		}
		must(t, unix.Unmount(mnt, 0))
		sh(t, "cryptsetup", "close", "stock-holder")
		if n, err := d.Opened(); err != nil || n != 0 {
			t.Errorf("sealed %t: closed, and open as %d, %v", sealed, n, err)
		}
		must(t, d.get(t.Context()))
		must(t, d.put())
		gone(t, uuid, d.Path)
		// A loop device of somebody's own, which nothing clears.
		lo := strings.TrimSpace(sh(t, "losetup", "--find", "--show", d.Path))
		wantHolder(t, d.get(t.Context()), filepath.Base(lo), d.Path)
		sh(t, "losetup", "--detach", lo)
	}
}

// A removal on a nearly full disk takes no blocks from under another program that has the
// image open.
func TestRemoveHeldByCryptsetup(t *testing.T) {
	small := t.TempDir()
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=128m"))
	defer func() { must(t, unix.Unmount(small, unix.MNT_DETACH)) }()
	d := device(t, writable)
	d.Path = filepath.Join(small, "image.luks")
	must(t, d.create(t.Context(), 32<<20))
	sh(t, "cryptsetup", "open", "--key-file", keyFile(t, d), d.Path, "stock-remove")
	defer sh(t, "cryptsetup", "close", "stock-remove")
	mnt := t.TempDir()
	must(t, unix.Mount(dmNode(t, "stock-remove"), mnt, "ext4", 0, ""))
	want := bytes.Repeat([]byte("theirs "), 1<<17)
	must(t, os.WriteFile(filepath.Join(mnt, "f"), want, 0o600))
	sh(t, "sync")
	must(t, d.Remove(t.Context()))
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o600))
	if got, err := os.ReadFile(filepath.Join(mnt, "f")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes are left of %d, %v", len(got), len(want), err)
	}
	must(t, unix.Unmount(mnt, 0))
}

// Growing a copy, or one that is open elsewhere, touches no device, and what is mounted goes
// on.
func TestGrowOfACopy(t *testing.T) {
	d, uuid := filled(t, "x")
	must(t, d.get(t.Context()))
	other := copied(t, d)
	wantHolder(t, other.grow(t.Context(), 64<<20), other.Path, d.Path)
	running(t, uuid)
	if info, err := os.Stat(other.Path); err != nil || info.Size() != 33<<20 {
		t.Errorf("the copy was made larger: %v, %v", info, err)
	}
	astray := *d
	astray.mnt = t.TempDir()
	if err := astray.grow(t.Context(), 64<<20); !errors.Is(err, crypt.ErrBadParams) {
		t.Errorf("mounted elsewhere: %v", err)
	}
	running(t, uuid)
	must(t, os.WriteFile(filepath.Join(d.mnt, "diff/after"), []byte("y"), 0o600))
	must(t, d.grow(t.Context(), 64<<20))
	running(t, uuid)
	must(t, d.put())
	gone(t, uuid, d.Path)
	if err := d.grow(t.Context(), 128<<20); !errors.Is(err, crypt.ErrBadParams) {
		t.Errorf("not open: %v", err)
	}
}

func running(t *testing.T, uuid string) {
	t.Helper()
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	if info, err := control.Info(crypt.DeviceName(uuid)); err != nil || info.Suspended {
		t.Fatalf("%+v, %v", info, err)
	}
}

// Whatever goes wrong when a device gets another table, it goes on with its old one: here
// the file is cut off behind its back, so that the new table has no room.
func TestGrowThatFails(t *testing.T) {
	d, uuid := filled(t, "x")
	must(t, d.get(t.Context()))
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	name := crypt.DeviceName(uuid)
	must(t, control.Suspend(name)) // as a crash in the middle left it
	if err := crypt.ResumeOld(control, name); err != nil {
		t.Error(err)
	}
	running(t, uuid)
	before, err := control.Table(name)
	must(t, err)
	must(t, control.Load(name, false, dm.Target{Length: before[0].Length, Type: "error"}))
	must(t, crypt.ResumeOld(control, name))
	running(t, uuid)
	must(t, control.Resume(name)) // nothing is loaded that would be put to use now
	after, err := control.Table(name)
	must(t, err)
	if after[0].Type != "crypt" || after[0].Params != before[0].Params {
		t.Errorf("table %+v", after)
	}
	must(t, os.WriteFile(filepath.Join(d.mnt, "diff/after"), []byte("y"), 0o600))
	must(t, d.put())
	gone(t, uuid, d.Path)
}

// Disks of one name in two folders are two disks.
func TestPlainDisksOfOneName(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	disk := func() (*crypt.PlainDevice, string) {
		return &crypt.PlainDevice{
			ImagePath: filepath.Join(t.TempDir(), "secrets.img"), Name: "secrets", Cipher: "aes-cbc-essiv:sha256", FsType: "ext4",
			Key: func(context.Context) (crypt.KernelKey, error) {
				return crypt.KernelKey{Type: "logon", Description: "logkey:secrets", Payload: bytes.Clone(key), Size: 32}, nil
			},
		}, t.TempDir()
	}
	a, atA := disk()
	must(t, a.Create(t.Context(), 8<<20))
	b, atB := disk()
	must(t, b.Create(t.Context(), 8<<20))
	must(t, a.Mount(t.Context(), atA))
	defer func() { _ = unix.Unmount(atA, unix.MNT_DETACH) }()
	wantHolder(t, b.Mount(t.Context(), atB), a.ImagePath, b.ImagePath)
	again := t.TempDir()
	must(t, a.Mount(t.Context(), again)) // once more, of the very file
	must(t, unix.Unmount(again, 0))
	if n, err := a.Opened(); err != nil || n == 0 {
		t.Errorf("a is open as %d, %v", n, err)
	}
	if n, err := b.Opened(); err != nil || n != 0 {
		t.Errorf("b is open as %d, %v", n, err)
	}
	must(t, unix.Unmount(atA, 0))

	// As Pantavisor's script opens it: dmsetup, under a name of its own.
	lo := strings.TrimSpace(sh(t, "losetup", "--find", "--show", b.ImagePath))
	sh(t, "dmsetup", "create", "pv-secrets", "--table", "0 16384 crypt aes-cbc-essiv:sha256 "+strings.Repeat("07", 32)+" 0 "+lo+" 0")
	wantHolder(t, b.Mount(t.Context(), atB), "pv-secrets", b.ImagePath)
	sh(t, "dmsetup", "remove", "pv-secrets")
	sh(t, "losetup", "--detach", lo)
	bad := *b
	bad.Cipher = "cipher_null-ecb"
	if err := bad.Mount(t.Context(), atB); !errors.Is(err, crypt.ErrBadParams) {
		t.Errorf("a cipher that is not on the list: %v", err)
	}
	must(t, b.Mount(t.Context(), atB))
	must(t, unix.Unmount(atB, 0))
}

// An image of format 1 opens, is upgraded while it is open, opens again, and stock
// cryptsetup opens it with the new passphrase. After a change by hand it is adopted.
func TestUpgradeAndAdoptOpenImage(t *testing.T) {
	d := device(t, writable)
	f, err := os.Create(d.Path)
	must(t, err)
	h, key, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), mustPass(t, luks2.Format1, "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3a"))
	must(t, err)
	clear(key)
	must(t, f.Truncate(33<<20))
	must(t, f.Close())
	uuid := h.UUID()
	d.Key = func(ctx context.Context, format int, _ string) ([]byte, error) {
		return passphrase(ctx, format, "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3a")
	}
	keys := func() string {
		format, _, err := d.Identify()
		must(t, err)
		name := filepath.Join(t.TempDir(), "key")
		must(t, os.WriteFile(name, mustPass(t, format, "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3a"), 0o600))
		return name
	}
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "diff"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "diff/f"), []byte("old"), 0o644))
	sh(t, "cryptsetup", "open", "--key-file", keys(), d.Path, "maker")
	sh(t, "mkfs.ext4", "-q", "-F", "-d", root, dmNode(t, "maker"))
	sh(t, "cryptsetup", "close", "maker")

	reads := func() {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(d.mnt, "diff/f")); err != nil || string(b) != "old" {
			t.Errorf("%q, %v", b, err)
		}
	}
	must(t, d.get(t.Context()))
	reads()
	must(t, d.Upgrade(t.Context()))
	second := *d
	second.mnt = t.TempDir()
	must(t, second.get(t.Context())) // the device that is there
	must(t, second.put())
	must(t, d.put())
	gone(t, uuid, d.Path)
	must(t, d.get(t.Context()))
	reads()
	// By hand, while it is open.
	extra := filepath.Join(t.TempDir(), "extra")
	must(t, os.WriteFile(extra, []byte("extra"), 0o600))
	sh(t, "cryptsetup", "luksAddKey", "--batch-mode", "--key-file", keys(), "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", d.Path, extra)
	if err := second.get(t.Context()); !errors.Is(err, luks2.ErrNotAuthentic) || !strings.Contains(err.Error(), "keyslots.0") { // ours is in slot 1 now
		t.Errorf("after luksAddKey: %v", err)
	}
	must(t, d.Adopt(t.Context()))
	must(t, second.get(t.Context()))
	must(t, second.put())
	must(t, d.put())
	gone(t, uuid, d.Path)
	sh(t, "cryptsetup", "open", "--test-passphrase", "--key-file", extra, d.Path)
}

func mustPass(t *testing.T, format int, uuid string) []byte {
	t.Helper()
	pass, err := passphrase(t.Context(), format, uuid)
	must(t, err)
	return pass
}
