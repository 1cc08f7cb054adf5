//go:build guest

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/volume"
)

// A dead machine's disk, mounted read-only: volumes are listed, mounted and read, and not
// one byte of the disk is changed.
func TestReadOnlyDisk(t *testing.T) {
	dir := t.TempDir()
	unclean := deadMachine(t, dir)
	disk, ro := filepath.Join(dir, "persist"), t.TempDir()
	must(t, unix.Mount(disk, ro, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(ro, unix.MNT_DETACH) })
	must(t, unix.Mount("", ro, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	sums := func() string {
		t.Helper()
		return sh(t, nil, "bash", "-c", `cd "$1" && find . -type d | sort && find . -type f -exec sha256sum {} + | sort -k2`, "bash", disk)
	}
	before := sums()
	cfg := config(dir)
	cfg.Layout.Root, cfg.BootID = ro, "another boot"
	s, err := volume.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	all, err := s.InspectAll(t.Context())
	must(t, err)
	if len(all) != 5 {
		t.Errorf("listed %+v", all)
	}
	for _, st := range all {
		if st.State != volume.StateReady {
			t.Errorf("%s is %s: %s", st.Name, st.State, st.Reason)
		}
	}
	readsReadOnly(t, s, unclean, ro)
	if _, err := s.Mount(t.Context(), "sealed", "1"); !errors.Is(err, unix.EROFS) {
		t.Errorf("mounted for docker: %v", err)
	}
	if err := s.Remove(t.Context(), "sealed"); !errors.Is(err, unix.EROFS) {
		t.Errorf("removed: %v", err)
	}
	noDevices(t)
	if after := sums(); after != before {
		t.Errorf("the disk was changed:\n%s\nit was\n%s", after, before)
	}
}

// deadMachine makes the disk of a machine that died, with one volume in use.
func deadMachine(t *testing.T, dir string) (unclean volume.Volume) {
	t.Helper()
	s := open(t, dir)
	must(t, s.SetRevision(t.Context(), "r1"))
	for name, opts := range map[string]map[string]string{
		"sealed": {"size": "32M"}, "plain": {"clear": "true"}, "booted": {"size": "32M", "persistence": "boot"}, "revised": {"size": "32M", "persistence": "revision"},
	} {
		create(t, s, name, opts)
		at, err := s.Mount(t.Context(), name, "1")
		must(t, err)
		must(t, os.WriteFile(filepath.Join(at, "file"), []byte(name), 0o600))
		must(t, s.Unmount(t.Context(), name, "1"))
	}
	// One was in use when the machine died.
	create(t, s, "unclean", map[string]string{"size": "32M"})
	at, err := s.Mount(t.Context(), "unclean", "1")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte("unclean"), 0o600))
	unclean, err = s.Get(t.Context(), "unclean")
	must(t, err)
	sh(t, nil, "bash", "-c", `sync -f "$1" && cp --sparse=always "$2" "$2.copy"`, "bash", at, unclean.Path)
	must(t, s.Unmount(t.Context(), "unclean", "1"))
	noDevices(t)
	must(t, os.Rename(unclean.Path+".copy", unclean.Path))
	must(t, s.SetRevision(t.Context(), "r2")) // and the machine died before it mounted anything
	must(t, s.Close())
	noDevices(t)
	return unclean
}

// readsReadOnly reads what can be read of the volumes of a disk mounted at ro.
func readsReadOnly(t *testing.T, s *volume.Store, unclean volume.Volume, ro string) {
	t.Helper()
	mnt := t.TempDir()
	for _, name := range []string{"sealed", "plain", "booted"} {
		must(t, s.MountAt(t.Context(), name, mnt))
		if got, err := os.ReadFile(filepath.Join(mnt, "file")); err != nil || string(got) != name {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		if err := os.WriteFile(filepath.Join(mnt, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s was written: %v", name, err)
		}
		must(t, s.UnmountHost(t.Context(), name, mnt))
	}
	if err := s.MountAt(t.Context(), "revised", mnt); err == nil || !strings.Contains(err.Error(), "never mounted") {
		t.Errorf("a volume without content: %v", err)
	}
	if err := s.MountAt(t.Context(), "unclean", mnt); !errors.Is(err, volume.ErrUnclean) {
		t.Errorf("a volume that was in use: %v", err)
	}
	// What is said then, with stock tools.
	pass, err := s.Passphrase(t.Context(), "unclean")
	must(t, err)
	sh(t, pass, "cryptsetup", "open", "--readonly", "--key-file", "-", filepath.Join(ro, "vault/volumes", unclean.ID().String()), "rescue")
	sh(t, nil, "mount", "-o", "ro,noload", "/dev/mapper/rescue", mnt)
	found := sh(t, nil, "find", mnt, "-name", "file")
	sh(t, nil, "umount", mnt)
	sh(t, nil, "cryptsetup", "close", "rescue")
	if found == "" {
		t.Error("stock tools do not find the file of the volume that was in use")
	}
}
