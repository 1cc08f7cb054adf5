//go:build guest

package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/disk"
	"layervault/persist"
	"layervault/volume"
	"layervault/volume/volumetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sh(t testing.TB, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", script, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// host is one host with disks.
type host struct {
	*testing.T
	dir  string // takes the place of /storage
	cfg  disk.Config
	text string
}

func newHost(t *testing.T, text string) *host {
	dir := t.TempDir()
	h := &host{T: t, dir: dir, text: strings.ReplaceAll(text, "/storage", dir)}
	h.cfg = disk.Config{Rules: disk.Rules{Root: dir, Layout: persist.Layout{Root: dir + "/persist"}}, Keys: volumetest.OpenKeys}
	return h
}

func (h *host) set() *disk.Set {
	h.Helper()
	f, err := disk.Parse([]byte(h.text), h.cfg.Rules)
	must(h, err)
	return disk.New(h.cfg, f)
}

func (h *host) mount(name string) (at string) {
	h.Helper()
	at = h.TempDir()
	must(h, h.set().MountAt(h.Context(), name, at))
	h.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

func (h *host) unmount(at string) {
	h.Helper()
	must(h, unix.Unmount(at, 0))
	h.gone()
}

// gone waits until the kernel has no disk of ours open.
func (h *host) gone() {
	h.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out := sh(h, "dmsetup ls; losetup -a")
		if !strings.Contains(out, "layervault-") && !strings.Contains(out, h.dir) {
			return
		}
		if time.Now().After(deadline) {
			h.Fatalf("left: %s", out)
		}
	}
}

func write(t testing.TB, at, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte(text), 0o600))
}

func reads(t testing.TB, at, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(at, "file"))
	if err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

const seed = "testdata/seed-device.json"

func seedText(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(seed)
	must(t, err)
	return string(text)
}

// The documented commands, as Pantavisor's own script runs them.
const (
	stockOpen = `loop=$(losetup -f --show "$1"); cryptsetup open -s 256 -c aes-cbc-essiv:sha256 --type plain --key-file="$2" "$loop" stock
		echo /dev/dm-$(dmsetup info -c --noheadings -o minor stock)`
	stockClose = `cryptsetup close stock; losetup -D`
)

// Both disks of Pantavisor's documentation, whose images have the same base name, at once.
func TestSeedDisks(t *testing.T) {
	h := newHost(t, seedText(t))
	one, two := h.mount("dm-internal-secrets"), h.mount("pvr-sdk-dm-versatile")
	write(t, one, "one")
	write(t, two, "two")
	for i, dir := range []string{"dm-internal-secrets", "pvr-sdk"} {
		key := []string{"versatile_key-internal_secrets", "versatile_key-pvr-sdk-dm-versatile"}[i]
		at := filepath.Join(h.dir, "dm-crypt-files", dir)
		for name, size := range map[string]int64{"versatile.img": []int64{2 << 20, 8 << 20}[i], key + ".txt": 32, key + ".init_done": 0} {
			if info, err := os.Stat(filepath.Join(at, name)); err != nil || info.Size() != size || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
	}
	again := h.mount("dm-internal-secrets") // a second mount of the open disk
	reads(t, again, "one")
	must(t, unix.Unmount(again, 0))
	must(t, unix.Unmount(one, 0))
	reads(t, two, "two")
	h.unmount(two)
	one, two = h.mount("dm-internal-secrets"), h.mount("pvr-sdk-dm-versatile") // no second first boot
	reads(t, one, "one")
	reads(t, two, "two")
	must(t, unix.Unmount(one, 0))
	h.unmount(two)
}

// Ours opens with the documented commands, and is laid out as they lay it out.
func TestStockOpensOurs(t *testing.T) {
	h := newHost(t, seedText(t))
	at := h.mount("pvr-sdk-dm-versatile")
	write(t, at, "ours")
	h.unmount(at)
	dir := filepath.Join(h.dir, "dm-crypt-files/pvr-sdk")
	image, key := dir+"/versatile.img", dir+"/versatile_key-pvr-sdk-dm-versatile.txt"
	node := sh(t, stockOpen, image, key)
	mnt := t.TempDir()
	sh(t, `mount -o noatime "$1" "$2"`, node, mnt)
	reads(t, mnt, "ours")
	write(t, mnt, "theirs")
	if got := sh(t, `dumpe2fs -h "$1" 2>/dev/null | awk -F: '/^Block size/ {print $2+0}'`, node); got != "1024" {
		t.Errorf("blocks of %s bytes", got)
	}
	must(t, unix.Unmount(mnt, 0))
	sh(t, stockClose)
	at = h.mount("pvr-sdk-dm-versatile")
	reads(t, at, "theirs")
	h.unmount(at)
}

// What the documented commands made opens in ours, and is never formatted.
func TestOursOpensStock(t *testing.T) {
	h := newHost(t, seedText(t))
	dir := filepath.Join(h.dir, "dm-crypt-files/pvr-sdk")
	image, key := dir+"/versatile.img", dir+"/versatile_key-pvr-sdk-dm-versatile"
	must(t, os.MkdirAll(dir, 0o700))
	sh(t, `dd if=/dev/urandom of="$2" bs=32 count=1 2>/dev/null; dd if=/dev/zero of="$1" bs=1M count=8 2>/dev/null`, image, key+".txt")
	node := sh(t, stockOpen, image, key+".txt")
	mnt := t.TempDir()
	sh(t, `mkfs.ext4 -q -b 1024 "$1"; mount -o noatime "$1" "$2"`, node, mnt)
	write(t, mnt, "theirs")
	must(t, unix.Unmount(mnt, 0))
	sh(t, stockClose)
	before := sh(t, `sha256sum <"$1"`, key+".txt")
	for _, done := range []bool{true, false} { // with their mark of a first boot, and cut short before it
		if done {
			must(t, os.WriteFile(key+".init_done", nil, 0o600))
		} else {
			must(t, os.Remove(key+".init_done"))
		}
		at := h.mount("pvr-sdk-dm-versatile")
		reads(t, at, "theirs")
		h.unmount(at)
	}
	if now := sh(t, `sha256sum <"$1"`, key+".txt"); now != before {
		t.Error("the key was changed")
	}
	// Neither another key, nor none, makes it format what is there.
	sum := sh(t, `sha256sum <"$1"`, image)
	must(t, os.Remove(key+".init_done"))
	must(t, os.Rename(key+".txt", key+".away"))
	at := t.TempDir()
	if err := h.set().MountAt(t.Context(), "pvr-sdk-dm-versatile", at); !errors.Is(err, disk.ErrKeyMissing) {
		t.Errorf("without the key: %v", err)
	}
	must(t, os.WriteFile(key+".txt", bytes.Repeat([]byte{7}, 32), 0o600))
	if err := h.set().MountAt(t.Context(), "pvr-sdk-dm-versatile", at); !errors.Is(err, ext4.ErrNotExt4) {
		t.Errorf("with another key: %v", err)
	}
	must(t, os.WriteFile(key+".txt", []byte("short"), 0o600))
	if err := h.set().MountAt(t.Context(), "pvr-sdk-dm-versatile", at); !errors.Is(err, disk.ErrBadKey) {
		t.Errorf("with a short key: %v", err)
	}
	if now := sh(t, `sha256sum <"$1"`, image); now != sum {
		t.Error("the image was changed")
	}
	must(t, os.Remove(key+".txt"))
	must(t, os.Rename(key+".away", key+".txt"))
	must(t, os.Remove(image))
	must(t, os.WriteFile(key+".init_done", nil, 0o600))
	if err := h.set().MountAt(t.Context(), "pvr-sdk-dm-versatile", at); !errors.Is(err, disk.ErrImageMissing) {
		t.Errorf("without the image: %v", err)
	}
	h.gone()
}

// A first boot that is cut short at any step is finished by the next, with the same key.
func TestFirstBootCutShort(t *testing.T) {
	cut := errors.New("cut short")
	for _, step := range []string{"key", "image", "init_done"} {
		h := newHost(t, seedText(t))
		h.cfg.Checkpoint = func(_, at string) error {
			if at == step {
				return cut
			}
			return nil
		}
		if err := h.set().MountAt(t.Context(), "pvr-sdk-dm-versatile", t.TempDir()); !errors.Is(err, cut) {
			t.Fatalf("%s: %v", step, err)
		}
		dir := filepath.Join(h.dir, "dm-crypt-files/pvr-sdk")
		key := dir + "/versatile_key-pvr-sdk-dm-versatile.txt"
		before, err := os.ReadFile(key)
		must(t, err)
		must(t, os.WriteFile(dir+"/versatile.img.new", []byte("half made"), 0o600))
		must(t, os.WriteFile(key+".tmp", []byte("half"), 0o600))
		h.cfg.Checkpoint = nil
		at := h.mount("pvr-sdk-dm-versatile")
		write(t, at, "x")
		h.unmount(at)
		if after, err := os.ReadFile(key); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: another key, %v", step, err)
		}
	}
}

// After an unclean stop the file system is checked, and nothing older comes back.
func TestDiskUncleanStop(t *testing.T) {
	h := newHost(t, seedText(t))
	at := h.mount("pvr-sdk-dm-versatile")
	write(t, at, "first")
	h.unmount(at)
	at = h.mount("pvr-sdk-dm-versatile")
	write(t, at, "second")
	sh(t, `sync -f "$1"`, at)
	image := filepath.Join(h.dir, "dm-crypt-files/pvr-sdk/versatile.img")
	sh(t, `cp "$1" "$1.cut"`, image)
	h.unmount(at)
	must(t, os.Rename(image+".cut", image)) // as the power cut left it
	at = h.mount("pvr-sdk-dm-versatile")
	reads(t, at, "second")
	h.unmount(at)
}

// The dm table of the trusted types, with a kernel key of another type that this kernel
// has: what differs on a board is where the kernel gets the key from.
func TestKernelKeys(t *testing.T) {
	sh(t, `keyctl add user layervault-master 0123456789abcdef0123456789abcdef @u >/dev/null; keyctl link @u @s`)
	for _, tt := range []struct{ kind, cipher string }{
		{"dm-crypt-caam", "capi:cbc(aes)-plain64"}, {"dm-crypt-dcp", "capi:cbc(aes)-essiv:sha256"},
	} {
		h := newHost(t, fmt.Sprintf(`[{"name":"hw","type":%q,"mode":"mainline","path":"/storage/f/file.img,8,board"}]`, tt.kind))
		h.cfg.Tools = disk.Tools{TrustedType: "encrypted", NewTrusted: "new user:layervault-master 32", LoadTrusted: "load "}
		at := h.mount("hw")
		write(t, at, "hardware")
		table := sh(t, "dmsetup table --showkeys layervault-disk-hw")
		if want := tt.cipher + " :32:encrypted:logkey:board 0 "; !strings.Contains(table, want) {
			t.Errorf("table is %s, want %s", table, want)
		}
		// An invalidated key is listed until the kernel's collector comes round.
		sh(t, `for i in $(seq 200); do grep -q logkey:board /proc/keys || exit 0; sleep 0.05; done; cat /proc/keys; exit 1`)
		h.unmount(at)
		// The documented command on ours.
		sh(t, `serial=$(keyctl add encrypted logkey:board "load $(cat "$1/board.bb")" @u)
			loop=$(losetup -f --show "$1/file.img")
			dmsetup create stock --table "0 $(blockdev --getsz "$loop") crypt $2 :32:encrypted:logkey:board 0 $loop 0 1 sector_size:512"
			mount -o noatime /dev/dm-$(dmsetup info -c --noheadings -o minor stock) "$3"
			grep -q hardware "$3/file"; umount "$3"; dmsetup remove stock; losetup -d "$loop"; keyctl unlink "$serial" @u`,
			h.dir+"/f", tt.cipher, t.TempDir())
		at = h.mount("hw") // the blob is loaded again
		reads(t, at, "hardware")
		h.unmount(at)
	}
}

// Vendors' keys, with programs that stand in for the vendors': the image is theirs byte
// for byte, and a migration to a trusted key only counts once the disk was mounted with it.
func TestVendorKeys(t *testing.T) {
	tools := t.TempDir()
	sh(t, `cat >"$1/dcp" <<'EOF'
#!/bin/sh
case $1 in encrypt) base64 -w 0 >"$2" ;; decrypt) base64 -d "$2" ;; esac
EOF
cat >"$1/blob" <<'EOF'
#!/bin/sh
cat >/dev/null; test ! -e "$(dirname "$0")/broken" && cat "$(dirname "$0")/blob.bb"
EOF
chmod +x "$1/dcp" "$1/blob"`, tools)
	sh(t, `keyctl add user layervault-master 0123456789abcdef0123456789abcdef @u >/dev/null; keyctl link @u @s`)
	h := newHost(t, `[{"name":"hw","type":"dm-crypt-dcp","path":"/storage/f/file.img,8,board"}]`)
	h.cfg.Tools = disk.Tools{DCPTool: tools + "/dcp", DCPBlob: tools + "/blob", TrustedType: "encrypted", NewTrusted: "new user:layervault-master 32", LoadTrusted: "load "}
	at := h.mount("hw")
	write(t, at, "vendor")
	h.unmount(at)
	node := sh(t, `base64 -d "$1/board" >"$2/raw"; loop=$(losetup -f --show "$1/file.img")
		cryptsetup open -s 256 -c "capi:cbc(aes)-essiv:sha256" --type plain --key-file="$2/raw" "$loop" stock; echo /dev/dm-$(dmsetup info -c --noheadings -o minor stock)`, h.dir+"/f", tools)
	mnt := t.TempDir()
	sh(t, `mount -o noatime "$1" "$2"`, node, mnt)
	reads(t, mnt, "vendor")
	must(t, unix.Unmount(mnt, 0))
	sh(t, stockClose)

	// A mainline disk without a blob uses the vendor's key; with migrate_keyblob it gets one.
	h.text = strings.Replace(h.text, `"type"`, `"mode":"mainline","type"`, 1)
	at = h.mount("hw")
	reads(t, at, "vendor")
	h.unmount(at)
	h.text = strings.Replace(h.text, `"type"`, `"migrate_keyblob":"yes","type"`, 1)
	// A blob of another key: it does not open the disk, and is not kept.
	sh(t, `serial=$(keyctl add encrypted other "new user:layervault-master 32" @u); keyctl pipe "$serial" >"$1/blob.bb"; keyctl unlink "$serial" @u`, tools)
	if err := h.set().MountAt(t.Context(), "hw", mnt); !errors.Is(err, ext4.ErrNotExt4) {
		t.Errorf("with a blob of another key: %v", err)
	}
	if left, _ := filepath.Glob(h.dir + "/f/*.bb*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	must(t, os.WriteFile(tools+"/broken", nil, 0o600))
	if err := h.set().MountAt(t.Context(), "hw", mnt); !errors.Is(err, disk.ErrTool) {
		t.Errorf("with a broken program: %v", err)
	}
	h.text = strings.Replace(h.text, `"migrate_keyblob":"yes",`, "", 1)
	at = h.mount("hw")
	reads(t, at, "vendor")
	h.unmount(at)
}

// Our own type: LUKS2 under a tier's key, which stock cryptsetup opens too.
func TestLUKSDisk(t *testing.T) {
	h := newHost(t, `[{"name":"own","type":"luks","path":"/storage/persist/vault/disks/own.img,32,vault"}]`)
	at := h.mount("own")
	write(t, at, "ours")
	h.unmount(at)
	image := h.dir + "/persist/vault/disks/own.img"
	uuid := sh(t, `cryptsetup luksUUID "$1"`, image)
	pass, err := volumetest.Keys{}.Passphrase(2, crypt.KindDisk, "own.img", uuid)
	must(t, err)
	cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", "-", image)
	cmd.Stdin = bytes.NewReader(pass)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("cryptsetup: %v: %s", err, out)
	}
	at = h.mount("own")
	reads(t, at, "ours")
	h.unmount(at)
	must(t, os.Remove(image))
	if err := h.set().MountAt(t.Context(), "own", at); !errors.Is(err, disk.ErrImageMissing) {
		t.Errorf("without the image: %v", err)
	}
}

// Every persistence on an encrypted disk, through the volume store, over a reboot.
func TestVolumesOnDisk(t *testing.T) {
	h := newHost(t, strings.Replace(seedText(t), `"name": "pvr-sdk-dm-versatile"`, `"name": "pvr-sdk-dm-versatile", "aliases": ["sdk"], "default": "yes"`, 1))
	dir := t.TempDir()
	open := func(boot string) *volume.Store {
		t.Helper()
		s, err := volume.Open(t.Context(), volume.Config{
			Layout: persist.Layout{Root: h.dir + "/persist"}, Mounts: dir + "/mounts", Scratch: dir + "/scratch", Keys: volumetest.OpenKeys, Disks: h.set(), BootID: boot,
		})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := open("boot-1")
	must(t, s.SetRevision(t.Context(), "r1"))
	where := map[string]string{"permanent": "perm/web/permanent", "revision": "rev/r1/web/revision", "boot": "boot/web/boot"}
	var mounts []string
	for kind := range where {
		r, err := volume.ParseOptions(map[string]string{"persistence": kind + "@sdk", "platform": "web"})
		must(t, err)
		_, err = s.Create(t.Context(), kind, r)
		must(t, err)
		at, err := s.Mount(t.Context(), kind, "1")
		must(t, err)
		write(t, at, kind)
		mounts = append(mounts, at)
	}
	for _, at := range mounts { // the power goes: nobody unmounts in order
		must(t, unix.Unmount(at, unix.MNT_DETACH))
	}
	h.gone()
	at := h.mount("sdk")
	for kind, path := range where {
		reads(t, filepath.Join(at, path), kind)
	}
	h.unmount(at)
	s = open("boot-2")
	for kind := range where {
		at, err := s.Mount(t.Context(), kind, "1")
		must(t, err)
		if kind != "boot" {
			reads(t, at, kind)
		} else if _, err := os.Stat(filepath.Join(at, "file")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("boot: %v", err)
		}
		must(t, s.Unmount(t.Context(), kind, "1"))
	}
	// ENOSPC at the disk's size.
	at, err := s.Mount(t.Context(), "permanent", "2")
	must(t, err)
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+at+"/big", "bs=1M", "count=16").CombinedOutput(); err == nil || !strings.Contains(string(out), "No space") {
		t.Errorf("16 MiB fit into 8: %v: %s", err, out)
	}
	must(t, os.Remove(at+"/big"))
	must(t, s.Unmount(t.Context(), "permanent", "2"))
	must(t, s.Remove(t.Context(), "permanent"))
	at = h.mount("sdk")
	if _, err := os.Stat(at + "/perm/web/permanent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
	reads(t, at+"/rev/r1/web/revision", "revision")
	h.unmount(at)
}

// All disks in the file's order, and down in the reverse; a busy one is named with who
// holds it.
func TestMountAll(t *testing.T) {
	h := newHost(t, seedText(t))
	dir := t.TempDir()
	mounted, err := h.set().MountAll(t.Context(), dir)
	must(t, err)
	if len(mounted) != 2 {
		t.Errorf("mounted %v", mounted)
	}
	f, err := os.Create(dir + "/pvr-sdk-dm-versatile/open")
	must(t, err)
	if err := h.set().UnmountAll(dir); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "pvr-sdk-dm-versatile") {
		t.Errorf("unmounted a busy disk: %v", err)
	}
	must(t, f.Close())
	must(t, h.set().UnmountAll(dir))
	h.gone()
}

// Many processes may come for one new disk at once: it is made once.
func TestFirstBootRace(t *testing.T) {
	h := newHost(t, seedText(t))
	done := make(chan error)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	for _, at := range dirs {
		go func() { done <- h.set().MountAt(ctx, "pvr-sdk-dm-versatile", at) }()
	}
	for range dirs {
		must(t, <-done)
	}
	write(t, dirs[0], "same")
	for _, at := range dirs {
		reads(t, at, "same")
		must(t, unix.Unmount(at, 0))
	}
	h.gone()
}

// A disk of type luks on a dead machine's disk, mounted read-only, is read; the first that
// may write makes the marker which is missing.
func TestLUKSDiskReadOnly(t *testing.T) {
	h := newHost(t, `[{"name":"own","type":"luks","path":"/storage/persist/vault/disks/own.img,32,vault"}]`)
	at := h.mount("own")
	write(t, at, "ours")
	h.unmount(at)
	marker := h.dir + "/persist/vault/disks/.own.img.init_done"
	for _, missing := range []bool{false, true} {
		if missing {
			must(t, os.Remove(marker))
		}
		must(t, unix.Mount(h.dir, h.dir, "", unix.MS_BIND, ""))
		must(t, unix.Mount("", h.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		at = h.mount("own")
		reads(t, at, "ours")
		if err := os.WriteFile(at+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("the disk was written: %v", err)
		}
		h.unmount(at)
		// The kernel lets go of the image some time after its devices are gone.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			err := unix.Unmount(h.dir, 0)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	h.unmount(h.mount("own"))
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
}

// Key files as Pantavisor's script makes them, with the mode of its umask, open their disk.
func TestKeyFileOfScript(t *testing.T) {
	h := newHost(t, seedText(t))
	h.unmount(h.mount("pvr-sdk-dm-versatile"))
	must(t, os.Chmod(filepath.Join(h.dir, "dm-crypt-files/pvr-sdk/versatile_key-pvr-sdk-dm-versatile.txt"), 0o644))
	all, err := h.set().Inspect()
	must(t, err)
	if st := all[1]; st.State != disk.StateReady || len(st.Problems) > 0 || len(st.Warnings) != 1 {
		t.Errorf("found %+v", st)
	}
	h.unmount(h.mount("pvr-sdk-dm-versatile"))
}

// A disk whose name begins with an underscore is one like any other.
func TestInternalDisk(t *testing.T) {
	h := newHost(t, strings.ReplaceAll(seedText(t), "pvr-sdk-dm-versatile\",", "_INT-sdk\","))
	at := h.mount("_INT-sdk")
	write(t, at, "internal")
	h.unmount(at)
	at = h.mount("_INT-sdk")
	reads(t, at, "internal")
	h.unmount(at)
}
