package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/layer"
	"layervault/vault/vaulttest"
	"layervault/volume"
)

// rescuer is a machine that a dead one's disk was attached to, mounted read-only.
type rescuer struct {
	*testing.T
	disk string // as it is
	at   string // where it is mounted read-only
	key  *keys.TierKey
}

// do runs a command on the disk and gives what it printed, on standard output.
func (r *rescuer) do(want int, args ...string) string {
	r.Helper()
	var stdout, stderr bytes.Buffer
	s := streams{strings.NewReader(""), &stdout, &stderr}
	if got := run(r.Context(), append(args, "--persist", r.at), s, func(name string) string {
		return map[string]string{"tpm": "/nonexistent", "key": "versatile"}[name]
	}); got != want {
		r.Fatalf("%v: status %d, want %d: %s%s", args, got, want, stdout.String(), stderr.String())
	}
	return stdout.String() + stderr.String()
}

// bindReadOnly mounts a folder read-only at another.
func bindReadOnly(t *testing.T, dir string) string {
	t.Helper()
	at := t.TempDir()
	if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return at
}

// tree is every file of a folder with what is in it.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `cd "$1" && find . -type d && find . -type f -exec sha256sum {} +`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// newRescuer kills a machine with layers, volumes and disks, and takes its disk along with
// the recovery key; its key file is gone.
func newRescuer(t *testing.T) (*rescuer, string) {
	dir, away := vaulttest.Dir(t), t.TempDir()
	vaulttest.New(t, dir, 2)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddVolumes(t, dir, key)
	r := &rescuer{T: t, disk: dir, at: dir, key: key}
	recovery := filepath.Join(away, "recovery")
	r.do(0, "key", "enroll", "recovery", "--recovery-key-out", recovery)
	r.do(0, "volume", "create", "-o", "clear=true", "plain")
	mnt := filepath.Join(away, "mnt")
	r.do(0, "volume", "mount", "plain", mnt)
	if err := os.WriteFile(filepath.Join(mnt, "file"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.do(0, "volume", "umount", "plain")
	if err := os.Remove(filepath.Join(dir, "versatile.key")); err != nil {
		t.Fatal(err)
	}
	// One copy of the ring is torn, which is mended where that can be written.
	if err := os.Truncate(filepath.Join(dir, "vault", "keyring.json.bak"), 10); err != nil {
		t.Fatal(err)
	}
	r.at = bindReadOnly(t, dir)
	return r, recovery
}

// opens says whether a file holds the passphrase of an image.
func opens(t *testing.T, image, passFile string) error {
	t.Helper()
	pass, err := os.ReadFile(passFile)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	volumeKey, _, err := h.Unlock(f, pass)
	clear(volumeKey)
	return err
}

// Every verb that reads does so on a disk that is mounted read-only, with the recovery key
// where no slot opens, and leaves it as it was.
func TestRescueFromReadOnly(t *testing.T) {
	r, recovery := newRescuer(t)
	before := tree(t, r.disk)
	out := t.TempDir()
	with := func(args ...string) []string { return append(args, "--recovery-key-file", recovery) }

	if text := r.do(3, "status"); !strings.Contains(text, "2 encrypted, 2 clear") {
		t.Errorf("status: %s", text)
	}
	r.do(0, "key", "list")
	r.do(0, "key", "backup", filepath.Join(out, "ring"))
	r.do(0, "image", "list")
	r.do(3, "image", "key", "layer1", "--key-file-out", filepath.Join(out, "none"))
	r.do(0, with("image", "key", "layer1", "--key-file-out", filepath.Join(out, "layer"))...)
	if err := opens(t, filepath.Join(r.at, "vault/layers/layer1", layer.ImageName), filepath.Join(out, "layer")); err != nil {
		t.Errorf("the layer's key: %v", err)
	}
	if text := r.do(0, "volume", "list"); strings.Count(text, "vault") < 2 || !strings.Contains(text, "plain") {
		t.Errorf("volume list: %s", text)
	}
	if text := r.do(0, with("volume", "list")...); strings.Contains(text, "damaged") { // whatever this kernel has
		t.Errorf("volume list with the recovery key: %s", text)
	}
	r.do(0, "volume", "show", "plain")
	r.do(0, "revision", "list")
	r.do(3, "volume", "key", "one", "--key-file-out", filepath.Join(out, "none"))
	r.do(0, with("volume", "key", "one", "--key-file-out", filepath.Join(out, "volume"))...)
	all, err := volume.List(t.Context(), quietApp(r.at).layout())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Name == "one" {
			if err := opens(t, v.Path, filepath.Join(out, "volume")); err != nil {
				t.Errorf("the volume's key: %v", err)
			}
		}
	}
	r.mountsReadOnly(out)
	r.disks(out, recovery)
	r.refuses(with)
	if after := tree(t, r.disk); after != before {
		t.Errorf("the disk was changed:\n%s\nit was\n%s", after, before)
	}
}

// mountsReadOnly mounts a volume, which cannot be written there.
func (r *rescuer) mountsReadOnly(out string) {
	r.Helper()
	mnt := filepath.Join(out, "mnt")
	r.do(0, "volume", "mount", "plain", mnt)
	defer r.do(0, "volume", "umount", "plain")
	if got, err := os.ReadFile(filepath.Join(mnt, "file")); err != nil || string(got) != "precious" {
		r.Errorf("read %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(mnt, "file"), nil, 0o600); err == nil {
		r.Error("a volume on a read-only disk was written")
	}
}

func (r *rescuer) disks(out, recovery string) {
	r.Helper()
	file := filepath.Join(out, "device.json")
	text := fmt.Sprintf(`{"disks":[{"name":"own","type":"luks","path":"%[1]s/vault/disks/secrets.img,16,vault"},{"name":"dir","type":"directory","path":"%[1]s/volumes"}]}`, r.at)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	r.do(0, "disk", "list", "--disks", file)
	r.do(0, "disk", "check", "--disks", file)
	r.do(0, "disk", "key", "own", "--disks", file, "--key-file-out", filepath.Join(out, "disk"), "--recovery-key-file", recovery)
	if err := opens(r.T, filepath.Join(r.at, "vault/disks/secrets.img"), filepath.Join(out, "disk")); err != nil {
		r.Errorf("the disk's key: %v", err)
	}
	r.do(0, "disk", "mount", "dir", filepath.Join(out, "dir"), "--disks", file)
	r.do(0, "disk", "umount", "dir", filepath.Join(out, "dir"), "--disks", file)
}

// refuses tries verbs that write: they say why they cannot.
func (r *rescuer) refuses(with func(...string) []string) {
	r.Helper()
	for _, args := range [][]string{
		with("key", "rotate"), with("key", "enroll", "versatile"), with("volume", "create", "-o", "clear=true", "more"), with("volume", "remove", "plain"),
		with("revision", "set", "r1"),
	} {
		if text := r.do(1, args...); !strings.Contains(text, "read-only") {
			r.Errorf("%v: %s", args, text)
		}
	}
}

// A rotation that was cut short cannot be finished there; what is done opens.
func TestRescueWithinARotation(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 2)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddVolumes(t, dir, key)
	b := &vaulttest.Breaking{Left: 12, Stop: func() error { return errors.New("cut short") }}
	if err := vaulttest.Rotate(t.Context(), dir, b); err == nil {
		t.Fatal("it was not cut short")
	}
	r := &rescuer{T: t, disk: dir, at: bindReadOnly(t, dir)}
	before := tree(t, dir)
	if text := r.do(0, "volume", "key", "one", "--key-file-out", filepath.Join(t.TempDir(), "key")); !strings.Contains(text, "cannot be finished on a disk that is read-only") {
		t.Errorf("it says %s", text)
	}
	if text := r.do(0, "key", "list"); !strings.Contains(text, "unfinished rotation") {
		t.Errorf("key list: %s", text)
	}
	if after := tree(t, dir); after != before {
		t.Errorf("the disk was changed:\n%s", after)
	}
}

// A machine that never had a volume has no folder for their state, and none can be made.
func TestRescueWithoutVolumes(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 2)
	if _, err := os.Lstat(filepath.Join(dir, "volumes")); !os.IsNotExist(err) {
		t.Fatalf("there is a folder already: %v", err)
	}
	r := &rescuer{T: t, disk: dir, at: bindReadOnly(t, dir)}
	before := tree(t, dir)
	r.do(0, "status")
	r.do(0, "volume", "list")
	r.do(0, "image", "key", "layer1", "--key-file-out", filepath.Join(t.TempDir(), "key"))
	if after := tree(t, dir); after != before {
		t.Errorf("the disk was changed:\n%s", after)
	}
	if _, err := os.Lstat(filepath.Join(dir, "volumes")); !os.IsNotExist(err) {
		t.Errorf("a folder was made: %v", err)
	}
}
