package volumetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/persist"
	"layervault/volume"
)

func testLifecycle(e *env) {
	v := e.create("db", "size=32M", "uuid=0A1B2C3D-0000-4000-8000-000000000001", "generation=7")
	if want := filepath.Join(e.cfg.Layout.Root, "vault/volumes/0a1b2c3d-0000-4000-8000-000000000001#7"); v.Path != want {
		e.Errorf("path %s, want %s", v.Path, want)
	}
	if info, err := os.Stat(filepath.Dir(v.Path)); err != nil || info.Mode().Perm() != 0o700 {
		e.Errorf("folder of volumes: %v, %v", info, err)
	}
	dir := e.mount("db", "a")
	e.empty(dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		e.Errorf("root of the volume: %v, %v", info, err)
	}
	e.write(dir, "kept")
	if at, err := e.store.Mountpoint(v); at != dir || err != nil {
		e.Errorf("mount point %q, %v", at, err)
	}
	e.unmount("db", "a")
	e.absent(dir)
	e.reads(e.mount("db", "b"), "kept")
	e.unmount("db", "b")
	e.unmount("db", "b") // docker repeats what got no answer
	e.empty(e.cfg.Scratch)
	e.must(e.store.Remove(e.Context(), "db"))
	e.absent(v.Path)
	e.fails(e.store.Remove(e.Context(), "db"), volume.ErrNotFound, "db")
	_, err := e.store.Mount(e.Context(), "db", "c")
	e.fails(err, volume.ErrNotFound)
	e.create("db") // the name is free again
}

func testRecreate(e *env) {
	v := e.create("app", "size=32M", "mountopts=noatime")
	if again := e.create("app", "size=32M", "mountopts=noatime"); again.ID() != v.ID() {
		e.Errorf("made %s anew, as %s", v.ID(), again.ID())
	}
	for _, opts := range [][]string{{"size=32M"}, {"size=48M", "mountopts=noatime"}, {"clear=true"}, {"size=32M", "mountopts=noatime", "uuid=0a1b2c3d-0000-4000-8000-000000000001"}} {
		_, err := e.tryCreate("app", opts...)
		e.fails(err, volume.ErrExists, "app has ")
	}
	inside := e.container(e.mount("app", "1"))
	e.write(inside, "old")
	_, err := e.tryCreate("app", "size=32M", "generation=1")
	e.fails(err, volume.ErrInUse)
	e.unmount("app", "1")
	e.must(unix.Unmount(inside, 0))
	next := e.create("app", "size=32M", "generation=3") // a new generation may have other options
	if next.UUID != v.UUID || next.Generation != 3 {
		e.Errorf("new generation is %s", next.ID())
	}
	e.absent(v.Path)
	e.empty(e.mount("app", "2"))
	e.unmount("app", "2")
	_, err = e.tryCreate("app", "size=32M", "generation=2")
	e.fails(err, volume.ErrExists, "generation 3")
	_, err = e.tryCreate("other", "uuid="+v.UUID)
	e.fails(err, volume.ErrExists, v.UUID)
	// A letter alone is for docker's -v the drive of a Windows path: it made a volume in the
	// clear instead.
	for _, name := range []string{"", "v", ".hidden", "a/b", "a b", strings.Repeat("n", 129)} {
		_, err := e.tryCreate(name)
		e.fails(err, volume.ErrBadName)
	}
	_, err = e.tryCreate("copy", "disk=none")
	e.fails(err, volume.ErrNoDisk, "device.json")
}

func testClear(e *env) {
	v := e.create("open", "clear=true")
	if want := filepath.Join(e.cfg.Layout.Volumes(persist.Clear), v.ID().String()); v.Path != want {
		e.Errorf("path %s, want %s", v.Path, want)
	}
	e.locked[persist.Vault] = errors.New("no key is needed")
	dir := e.mount("open", "1")
	e.write(dir, "in the clear")
	e.reads(filepath.Join(v.Path, "diff"), "in the clear")
	at := filepath.Join(e.TempDir(), "host")
	e.must(e.store.MountAt(e.Context(), "open", at))
	locked := e.locked[persist.Vault]
	delete(e.locked, persist.Vault)
	e.fails(e.store.Remove(e.Context(), "open"), volume.ErrInUse, at)
	e.locked[persist.Vault] = locked
	e.must(e.store.UnmountHost(e.Context(), "open", ""))
	e.fails(e.store.Grow(e.Context(), "open", 64<<20), volume.ErrNotHere)
	// Nothing is destroyed for a name that nobody vouches for.
	e.fails(e.store.Remove(e.Context(), "open"), e.locked[persist.Vault], "authenticated by the vault")
	_, err := e.tryCreate("another", "clear=true")
	e.fails(err, e.locked[persist.Vault])
	delete(e.locked, persist.Vault)
	e.must(e.store.Remove(e.Context(), "open")) // docker forgot to unmount
	e.absent(dir)
	e.absent(v.Path)
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
}

func testPurge(e *env) {
	v := e.create("purged", "size=32M")
	e.write(e.mount("purged", "1"), "old")
	_, err := e.store.Purge(e.Context(), "purged", volume.Options{}) // what docker forgot to unmount is no use of it
	e.must(err)
	next, err := e.store.Get(e.Context(), "purged")
	e.must(err)
	if next.Generation != v.Generation+1 || next.UUID != v.UUID || next.Options != v.Options {
		e.Errorf("purged to %+v", next.Record)
	}
	e.absent(v.Path)
	dir := e.mount("purged", "2")
	e.empty(dir)
	inside := e.container(dir)
	_, err = e.store.Purge(e.Context(), "purged", volume.Options{})
	e.fails(err, volume.ErrInUse)
	e.must(unix.Unmount(inside, 0))
	e.unmount("purged", "2")
	bigger, err := e.store.Purge(e.Context(), "purged", volume.Options{Size: 64 << 20, Tier: persist.Unsealed})
	e.must(err)
	if filepath.Dir(bigger.Path) != e.cfg.Layout.Volumes(persist.Unsealed) || bigger.Options.Size != 64<<20 {
		e.Errorf("purged to %s, %+v", bigger.Path, bigger.Options)
	}
	cleared, err := e.store.Purge(e.Context(), "purged", volume.Options{Tier: persist.Clear})
	e.must(err)
	if cleared.Options.Size != 0 || cleared.Generation != 3 {
		e.Errorf("purged to %+v", cleared.Record)
	}
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 1 {
		e.Errorf("left: %+v", all)
	}
}

// testCounters: a controller's generation 1 was taken for the one that a purge on the host
// had made, and the old data stayed.
func testCounters(e *env) {
	v := e.create("vol", "size=32M", "generation=0")
	_, err := e.store.Purge(e.Context(), "vol", volume.Options{})
	e.must(err)
	e.write(e.mount("vol", "1"), "old")
	e.unmount("vol", "1")
	e.create("vol", "size=32M")                 // whatever generation there is
	e.create("vol", "size=32M", "generation=0") // the controller's present one
	e.reads(e.mount("vol", "1"), "old")
	e.unmount("vol", "1")
	next := e.create("vol", "size=32M", "generation=1")
	if next.UUID != v.UUID || next.Generation != 2 || next.Local != 1 {
		e.Errorf("generation %s with %d local ones", next.ID(), next.Local)
	}
	e.reads(e.mount("vol", "1"), "")
	e.unmount("vol", "1")
	e.open()
	if again := e.create("vol", "size=32M", "generation=1"); again.ID() != next.ID() {
		e.Errorf("made %s of %s", again.ID(), next.ID())
	}
	_, err = e.tryCreate("vol", "size=32M", "generation=0")
	e.fails(err, volume.ErrExists, "generation 1")
	e.must(e.store.Remove(e.Context(), "vol"))
}

// testImmutable: a file that forbids its removal made a volume of the clear tier one that
// was gone from the list and could never be removed.
func testImmutable(e *env) {
	v := e.create("vol", "clear=true")
	dir := e.mount("vol", "1")
	for _, flags := range []int{unix.STATX_ATTR_IMMUTABLE, unix.STATX_ATTR_APPEND} { // the same as chattr's
		for _, name := range []string{fmt.Sprint("file", flags), fmt.Sprint("dir", flags)} {
			at := filepath.Join(dir, name)
			if strings.HasPrefix(name, "dir") {
				e.must(os.MkdirAll(filepath.Join(at, "below"), 0o700))
			} else {
				e.must(os.WriteFile(at, []byte("x"), 0o600))
			}
			f, err := os.Open(at)
			e.must(err)
			has, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
			e.must(err)
			err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, has|flags)
			e.must(errors.Join(err, f.Close()))
			if err := os.RemoveAll(at); err == nil {
				e.Fatalf("%s does not forbid its removal", at)
			}
		}
	}
	e.must(os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	e.must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	e.unmount("vol", "1")
	_, err := e.store.Purge(e.Context(), "vol", volume.Options{})
	e.must(err)
	e.absent(v.Path)
	e.must(e.store.Remove(e.Context(), "vol"))
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
}
