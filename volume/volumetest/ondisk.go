package volumetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/persist"
	"layervault/volume"
)

// bindDisk is the only disk of a device.json: a folder.
type bindDisk struct{ dir string }

// The disk's name, and its alias.
const (
	diskName  = "data"
	diskAlias = "storage"
)

func (bindDisk) Resolve(name string) (string, error) {
	if name != diskName && name != diskAlias {
		return "", fmt.Errorf("no disk %s", name)
	}
	return diskName, nil
}

func (d bindDisk) MountAt(_ context.Context, _, at string) error {
	return unix.Mount(d.dir, at, "", unix.MS_BIND, "")
}

// withDisk gives the host a disk, and says where its folder is.
func (e *env) withDisk() (dir string) {
	e.Helper()
	dir = e.TempDir()
	e.cfg.Disks = bindDisk{dir}
	e.open()
	return dir
}

// testOnDisk: a volume on a disk lies where Pantavisor has it, and does what other volumes do
// but for what an image is needed for.
func testOnDisk(e *env) {
	dir := e.withDisk()
	v := e.create("app.db", "disk="+diskAlias, "platform=app")
	if v.Options.Disk != diskName || v.IsImage() || v.KeyTier() != persist.Vault {
		e.Errorf("made %+v", v)
	}
	record := filepath.Join(e.cfg.Layout.VolumeState(), "on-disks", v.ID().String()+".json")
	if _, err := os.Stat(record); v.Path != record || err != nil {
		e.Errorf("path %s, want %s: %v", v.Path, record, err)
	}
	e.empty(dir) // it is made when it is first mounted
	perm := filepath.Join(dir, "perm/app/db")
	at := e.mount("app.db", "1")
	e.write(at, "kept")
	e.reads(perm, "kept")
	e.states(map[string]string{"app.db": volume.StateMounted})
	inside := e.container(at)
	e.fails(e.store.Remove(e.Context(), "app.db"), volume.ErrInUse, inside)
	e.unmount("app.db", "1")
	e.fails(e.store.Remove(e.Context(), "app.db"), volume.ErrInUse, inside)
	e.must(unix.Unmount(inside, 0))
	e.states(map[string]string{"app.db": volume.StateReady})
	e.fails(e.store.Grow(e.Context(), "app.db", 64<<20), volume.ErrNotHere)
	_, _, err := e.store.Trim(e.Context(), "app.db")
	e.fails(err, volume.ErrNotHere)
	_, err = e.store.Passphrase(e.Context(), "app.db")
	e.fails(err, volume.ErrNotHere)
	// A new generation is the same folder, empty; another kind is not on the disk any more.
	next, err := e.store.Purge(e.Context(), "app.db", volume.Options{})
	e.must(err)
	e.absent(perm)
	e.absent(record)
	e.write(e.mount("app.db", "1"), "again")
	e.unmount("app.db", "1")
	cleared, err := e.store.Purge(e.Context(), "app.db", volume.Options{Tier: persist.Clear})
	e.must(err)
	if cleared.Generation != next.Generation+1 || cleared.Options.Platform != "" {
		e.Errorf("purged to %+v", cleared.Record)
	}
	e.absent(perm)
	e.absent(next.Path)
	back, err := e.store.Purge(e.Context(), "app.db", volume.Options{Disk: diskName, Platform: "app"})
	e.must(err)
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
	e.reads(e.mount("app.db", "1"), "")
	e.unmount("app.db", "1")
	// What else lies on the disk is not the volume's.
	e.must(os.MkdirAll(filepath.Join(dir, "perm/app/other"), 0o700))
	e.must(e.store.Remove(e.Context(), "app.db"))
	e.absent(perm)
	e.absent(back.Path)
	if _, err := os.Stat(filepath.Join(dir, "perm/app/other")); err != nil {
		e.Error(err)
	}
	e.onDiskRevisions(dir)
	e.empty(e.cfg.Scratch)
}

// onDiskRevisions: the content of each revision, and of each boot, has a place of its own on
// the disk.
func (e *env) onDiskRevisions(dir string) {
	e.Helper()
	e.create("rev", "disk="+diskName, "persistence=revision")
	for _, r := range []string{"r1", "r2", "r3"} {
		e.must(e.store.SetRevision(e.Context(), r))
		e.write(e.mount("rev", r), r)
		e.unmount("rev", r)
	}
	e.must(os.MkdirAll(filepath.Join(dir, "rev/r1/docker/other"), 0o700))
	e.must(os.MkdirAll(filepath.Join(dir, "rev/r0/docker/other"), 0o700))
	done, err := e.store.GCRevisions(e.Context(), []string{"r2"}, false)
	e.must(err)
	if fmt.Sprint(done.Removed, done.Failed) != "map[rev:[r1]] map[]" {
		e.Errorf("removed %v, failed %v", done.Removed, done.Failed)
	}
	e.absent(filepath.Join(dir, "rev/r1/docker/rev"))
	e.reads(filepath.Join(dir, "rev/r2/docker/rev"), "r2")
	for _, other := range []string{"rev/r0/docker/other", "rev/r1/docker/other"} {
		if _, err := os.Stat(filepath.Join(dir, other)); err != nil {
			e.Error(err)
		}
	}
	e.must(e.store.Remove(e.Context(), "rev"))
	for _, r := range []string{"r2", "r3"} {
		e.absent(filepath.Join(dir, "rev", r, "docker/rev"))
	}
	e.create("boot", "disk="+diskName, "persistence=boot")
	e.write(e.mount("boot", "1"), "first boot")
	e.reboot("boot-2")
	at := e.mount("boot", "1")
	e.reads(at, "")
	e.unmount("boot", "1")
	e.must(e.store.Remove(e.Context(), "boot"))
	e.empty(filepath.Join(dir, "boot/docker")) // the marker of the boot is gone, too
}

// testOnDiskDamaged: of a volume whose record cannot be read nobody knows the folder, so
// nothing on the disk is removed with it.
func testOnDiskDamaged(e *env) {
	dir := e.withDisk()
	v := e.create("db", "disk="+diskName)
	e.write(e.mount("db", "1"), "kept")
	e.unmount("db", "1")
	e.must(os.WriteFile(v.Path, []byte("{"), 0o600))
	e.open()
	_, err := e.store.Mount(e.Context(), "db", "1")
	e.fails(err, volume.ErrDamaged, v.ID().String())
	e.must(e.store.Heal(e.Context()))
	e.must(e.store.Remove(e.Context(), v.ID().String()))
	e.absent(v.Path)
	e.reads(filepath.Join(dir, "perm/docker/db"), "kept")
	e.states(map[string]string{})
	// Without device.json its volumes are locked, and cannot be made.
	e.create("db", "disk="+diskName)
	e.cfg.Disks = nil
	e.open()
	_, err = e.store.Mount(e.Context(), "db", "1")
	e.fails(err, volume.ErrNoDisk, "device.json")
	e.states(map[string]string{"db": volume.StateLocked})
	_, err = e.tryCreate("new", "disk="+diskName)
	e.fails(err, volume.ErrNoDisk, "device.json")
}
