package volumetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"layervault/persist"
	"layervault/volume"
)

// Backend is what the suite runs on.
type Backend struct {
	// Devices makes the images of a store, with keys that open its tiers; nil for the
	// store's own.
	Devices func(keys func(context.Context, persist.Tier) (volume.KeySource, error)) volume.Devices
	Many    int // volumes to mount at once
	// Sequences is how many random sequences of operations the model test does.
	Sequences int
	// Grows: this machine lets file systems grow (CAP_SYS_RESOURCE).
	Grows bool
}

// env is one host with volumes.
type env struct {
	*testing.T
	cfg   volume.Config
	store *volume.Store
	// locked makes a tier's key unavailable.
	locked map[persist.Tier]error
	// old makes the tiers accept what is not authenticated.
	old bool
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	tests := map[string]func(e *env){
		"Lifecycle": testLifecycle, "Recreate": testRecreate, "Counts": testCounts, "Restart": testRestart, "Reboot": testReboot,
		"Revision": testRevision, "Clear": testClear, "Bound": testBound, "Trim": testTrim, "Purge": testPurge, "InUse": testInUse,
		"Copying": testCopying, "Namespace": testNamespace, "Counters": testCounters, "Superseded": testSuperseded, "Immutable": testImmutable, "Closed": testClosed, "Crashes": testCrashes,
		"Locked": testLocked, "Damaged": testDamaged, "Host": testHost, "Beside": testBeside, "Remade": testRemade, "Copy": testCopy, "Race": testRace, "Sweep": testSweep,
		"Inodes": testInodes, "Many": func(e *env) { testMany(e, b.Many) }, "Model": func(e *env) { testModel(e, b.Sequences) },
	}
	if b.Grows {
		tests["Grow"], tests["GrownFull"], tests["GrownInodes"] = testGrow, testGrownFull, testGrownInodes
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newEnv(t, b)) })
	}
}

func newEnv(t *testing.T, b Backend) *env {
	dir := t.TempDir()
	e := &env{T: t, locked: map[persist.Tier]error{}}
	keys := func(_ context.Context, tier persist.Tier) (volume.KeySource, error) {
		if err := e.locked[tier]; err != nil {
			return nil, err
		}
		if tier == persist.Clear {
			return nil, errors.New("the clear tier has no key")
		}
		return Keys{Old: e.old, Other: string(tier)}, nil
	}
	e.cfg = volume.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")},
		Mounts: filepath.Join(dir, "mounts"), Scratch: filepath.Join(dir, "scratch"),
		Keys: keys, DefaultSize: 64 << 20, BootID: "boot-1",
	}
	if b.Devices != nil {
		e.cfg.Devices = b.Devices(keys)
	}
	t.Cleanup(func() { UnmountBelow(t, dir) })
	// There is a vault; its ring is the keys' business.
	ring := e.cfg.Layout.KeyRing(persist.Vault)
	e.must(os.MkdirAll(filepath.Dir(ring), 0o700))
	e.must(os.WriteFile(ring, []byte("{}"), 0o600))
	e.open()
	return e
}

// open opens the store again, as another process would.
func (e *env) open() {
	e.Helper()
	if e.store != nil {
		e.must(e.store.Close())
	}
	var err error
	e.store, err = volume.Open(e.Context(), e.cfg)
	e.must(err)
	e.Cleanup(func() { _ = e.store.Close() })
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) fails(err, want error, words ...string) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("got %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			e.Errorf("error %q does not say %q", err, w)
		}
	}
}

func (e *env) create(name string, opts ...string) volume.Volume {
	e.Helper()
	v, err := e.tryCreate(name, opts...)
	e.must(err)
	return v
}

func (e *env) tryCreate(name string, opts ...string) (volume.Volume, error) {
	m := map[string]string{}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	r, err := volume.ParseOptions(m)
	if err != nil {
		return volume.Volume{}, err
	}
	return e.store.Create(e.Context(), name, r)
}

func (e *env) mount(name, id string) string {
	e.Helper()
	dir, err := e.store.Mount(e.Context(), name, id)
	e.must(err)
	return dir
}

func (e *env) unmount(name, id string) {
	e.Helper()
	e.must(e.store.Unmount(e.Context(), name, id))
}

func (e *env) write(dir, text string) {
	e.Helper()
	e.must(os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644))
}

// reads wants the file to hold a text; "" for no file.
func (e *env) reads(dir, want string) {
	e.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if want == "" && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil || string(got) != want {
		e.Fatalf("file holds %q (%v), want %q", got, err, want)
	}
}

func (e *env) absent(path string) {
	e.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		e.Fatalf("%s is still there (%v)", path, err)
	}
}

func (e *env) empty(dir string) {
	e.Helper()
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, os.ErrNotExist) {
		e.must(err)
	}
	if len(entries) > 0 {
		e.Fatalf("%s holds %v", dir, entries)
	}
}

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
		e.fails(err, volume.ErrExists, "layervault volume purge")
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

func testCounts(e *env) {
	e.create("vol")
	dir := e.mount("vol", "one")
	if again := e.mount("vol", "one"); again != dir {
		e.Errorf("mounted at %s and %s", dir, again)
	}
	e.write(dir, "x")
	if second := e.mount("vol", "two"); second != dir {
		e.Errorf("mounted at %s and %s", dir, second)
	}
	e.unmount("vol", "one")
	e.reads(dir, "x")
	e.unmount("vol", "never")
	e.reads(dir, "x")
	e.unmount("vol", "two")
	e.reads(dir, "x") // it was mounted twice under the first id
	e.unmount("vol", "one")
	e.absent(dir)
	// Somebody unmounts behind our back: the next mount is a mount.
	e.mount("vol", "three")
	e.must(unix.Unmount(dir, 0))
	e.reads(e.mount("vol", "four"), "x")
	e.unmount("vol", "three")
	e.reads(dir, "x")
	e.unmount("vol", "four")
	e.absent(dir)
}

// container stands for a container: a mount of its own, which ours does not take along.
func (e *env) container(dir string) (at string) {
	e.Helper()
	at = e.TempDir()
	e.must(unix.Mount(dir, at, "", unix.MS_BIND, ""))
	e.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

func testRestart(e *env) {
	e.create("vol")
	dir := e.mount("vol", "one")
	e.write(dir, "x")
	inside := e.container(dir)
	// The plugin is restarted while a container runs: the count goes on.
	e.open()
	e.must(e.store.Heal(e.Context()))
	e.reads(dir, "x")
	e.mount("vol", "two")
	e.unmount("vol", "one")
	e.reads(dir, "x")
	e.mount("vol", "one")
	e.unmount("vol", "two")
	e.reads(inside, "x")
	// The container goes, and docker never says so: the next start heals that.
	e.must(unix.Unmount(inside, 0))
	e.open()
	e.must(e.store.Heal(e.Context()))
	e.absent(dir)
	e.unmount("vol", "one") // it may still come
	// Nor does a missed unmount keep docker from removing the volume.
	e.mount("vol", "three")
	e.must(e.store.Remove(e.Context(), "vol"))
	e.absent(dir)
	e.open()
	e.must(e.store.Heal(e.Context()))
}

// reboot unmounts everything and begins another boot.
func (e *env) reboot(boot string) {
	e.Helper()
	UnmountBelow(e, filepath.Dir(e.cfg.Mounts))
	e.cfg.BootID = boot
	e.open()
}

func testReboot(e *env) {
	e.create("stays")
	e.create("goes", "persistence=boot")
	e.create("clear", "persistence=boot", "clear=true")
	all := []string{"stays", "goes", "clear"}
	for _, name := range all {
		e.write(e.mount(name, "1"), "first boot")
	}
	e.unmount("goes", "1")
	e.reads(e.mount("goes", "2"), "first boot") // empty at the first mount only
	e.open()
	e.reads(e.mount("goes", "3"), "first boot")
	e.reboot("boot-2")
	want := map[string]string{"stays": "first boot"}
	for _, name := range all {
		dir := e.mount(name, "4")
		e.reads(dir, want[name])
		e.unmount(name, "4") // the ids of the first boot are gone with it
		e.absent(dir)
	}
}

func testRevision(e *env) {
	e.create("vol", "persistence=revision")
	e.create("bound", "persistence=revision", "revision=r1")
	_, err := e.store.Mount(e.Context(), "vol", "1")
	e.fails(err, volume.ErrNoRevision)
	for _, r := range []string{"r1", "r2", "r3"} {
		e.must(e.store.SetRevision(e.Context(), r))
		dir := e.mount("vol", r)
		e.reads(dir, "")
		e.write(dir, r)
		e.unmount("vol", r)
	}
	e.write(e.mount("bound", "1"), "bound")
	e.unmount("bound", "1")
	e.must(e.store.SetRevision(e.Context(), "r1"))
	old := e.mount("vol", "1")
	e.reads(old, "r1")
	e.must(e.store.SetRevision(e.Context(), "r3"))
	now := e.mount("vol", "2") // beside the container of the earlier revision
	e.reads(now, "r3")
	e.reads(old, "r1")
	e.unmount("vol", "1")
	e.absent(old)
	e.reads(now, "r3")

	done, err := e.store.GCRevisions(e.Context(), nil, true)
	e.must(err)
	if fmt.Sprint(done.Removed) != "map[vol:[r2]]" {
		e.Errorf("dry run would remove %v", done.Removed)
	}
	done, err = e.store.GCRevisions(e.Context(), nil, false)
	e.must(err)
	if fmt.Sprint(done.Removed, done.Kept, done.Failed) != "map[vol:[r2]] [r1 r3] map[]" {
		e.Errorf("removed %v, kept %v, failed %v", done.Removed, done.Kept, done.Failed)
	}
	r, err := e.store.Revisions()
	e.must(err)
	if r.Current != "r3" || len(r.Known) != 2 {
		e.Errorf("known are %+v", r)
	}
	e.unmount("vol", "2")
	e.must(e.store.SetRevision(e.Context(), "r2"))
	e.reads(e.mount("vol", "3"), "")
	e.unmount("vol", "3")
	e.must(e.store.SetRevision(e.Context(), "r1"))
	e.reads(e.mount("bound", "2"), "bound")
	e.unmount("bound", "2")
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
	e.fails(e.store.Remove(e.Context(), "open"), e.locked[persist.Vault], "vault vouches")
	_, err := e.tryCreate("another", "clear=true")
	e.fails(err, e.locked[persist.Vault])
	delete(e.locked, persist.Vault)
	e.must(e.store.Remove(e.Context(), "open")) // docker forgot to unmount
	e.absent(dir)
	e.absent(v.Path)
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
}

// fill writes to a file until it is full, and returns how many bytes it took.
func (e *env) fill(path string) (n int64) {
	e.Helper()
	f, err := os.Create(path)
	e.must(err)
	defer f.Close()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	for {
		m, err := f.Write(chunk)
		n += int64(m)
		if err == nil {
			err = f.Sync()
		}
		if errors.Is(err, unix.ENOSPC) {
			return n
		}
		e.must(err)
	}
}

func testBound(e *env) {
	e.create("small", "size=32M")
	dir := e.mount("small", "1")
	if n := e.fill(filepath.Join(dir, "fill")); n < 16<<20 || n > 32<<20 {
		e.Errorf("%d bytes fit into 32 MiB", n)
	}
	e.must(os.Remove(filepath.Join(dir, "fill")))
	e.write(dir, "still writing")
	e.unmount("small", "1")
	e.reads(e.mount("small", "2"), "still writing")
	e.unmount("small", "2")
}

func testGrow(e *env) {
	e.create("grown", "size=32M")
	dir := e.mount("grown", "1")
	e.fill(filepath.Join(dir, "fill"))
	e.must(e.store.Grow(e.Context(), "grown", 96<<20))
	if n := e.fill(filepath.Join(dir, "more")); n < 48<<20 {
		e.Errorf("%d bytes more after growing from 32 to 96 MiB", n)
	}
	e.must(e.store.Grow(e.Context(), "grown", 96<<20))
	if err := e.store.Grow(e.Context(), "grown", 64<<20); err == nil {
		e.Error("made smaller")
	}
	e.unmount("grown", "1")
	e.must(e.store.Grow(e.Context(), "grown", 128<<20)) // also while nothing uses it
	e.create("grown", "size=32M")
	e.create("grown", "size=128M")
	dir = e.mount("grown", "2")
	if info, err := os.Stat(filepath.Join(dir, "more")); err != nil || info.Size() < 48<<20 {
		e.Errorf("after growing: %v, %v", info, err)
	}
	var st unix.Statfs_t
	e.must(unix.Statfs(dir, &st))
	if size := int64(st.Blocks) * int64(st.Bsize); size < 110<<20 {
		e.Errorf("file system of %d bytes", size)
	}
	e.unmount("grown", "2")
	// A crash after the file was made longer leaves a volume as good as before, and growing
	// it again finishes what was begun.
	v, err := e.store.Get(e.Context(), "grown")
	e.must(err)
	info, err := os.Stat(v.Path)
	e.must(err)
	e.must(os.Truncate(v.Path, info.Size()+64<<20))
	dir = e.mount("grown", "3")
	e.must(e.store.Grow(e.Context(), "grown", 192<<20))
	e.must(unix.Statfs(dir, &st))
	if size := int64(st.Blocks) * int64(st.Bsize); size < 170<<20 {
		e.Errorf("file system of %d bytes after a growth that was cut short", size)
	}
	e.unmount("grown", "3")
}

func testTrim(e *env) {
	v := e.create("trimmed", "size=96M")
	dir := e.mount("trimmed", "1")
	f, err := os.Create(filepath.Join(dir, "big"))
	e.must(err)
	_, err = io.CopyN(f, endless{}, 48<<20)
	e.must(errors.Join(err, f.Sync(), f.Close()))
	if n := onDisk(e, v.Path); n < 48<<20 {
		e.Fatalf("%d bytes on disk with a file of 48 MiB", n)
	}
	e.must(os.Remove(filepath.Join(dir, "big")))
	before, after, err := e.store.Trim(e.Context(), "trimmed")
	e.must(err)
	if after > 24<<20 || onDisk(e, v.Path) > 24<<20 {
		e.Errorf("%d bytes on disk before trimming, %d after", before, after)
	}
	e.unmount("trimmed", "1")
}

// endless is content that no file system stores as holes.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i*7 + 1)
	}
	return len(p), nil
}

func onDisk(e *env, path string) int64 {
	e.Helper()
	var st unix.Stat_t
	e.must(unix.Stat(path, &st))
	return st.Blocks * 512
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

// What a crash leaves is swept at the next start, and a generation that a purge could not
// remove any more is collected.
func testSweep(e *env) {
	v := e.create("shared", "size=32M")
	keep := e.TempDir() + "/copy"
	copyFile(e, v.Path, keep)
	_, err := e.store.Purge(e.Context(), "shared", volume.Options{})
	e.must(err)
	e.must(os.Rename(keep, v.Path)) // the crash came before the old one was removed
	for _, name := range []string{"/.x#0.tmp-1", "/." + v.ID().String() + ".tmp-2"} {
		e.must(os.WriteFile(filepath.Dir(v.Path)+name, []byte("half made"), 0o600))
	}
	half := e.cfg.Layout.Volumes(persist.Clear) + "/.y#0.tmp-remove/diff"
	e.must(os.MkdirAll(half, 0o700))
	e.open()
	all, err := e.store.InspectAll(e.Context())
	e.must(err)
	if len(all) != 2 || all[0].State != volume.StateSuperseded || all[1].State != volume.StateReady {
		e.Errorf("after the crash: %+v", all)
	}
	now, err := e.store.Get(e.Context(), "shared")
	e.must(err)
	if now.Generation != 1 {
		e.Errorf("the volume is generation %d", now.Generation)
	}
	done, err := e.store.GC(e.Context(), true)
	e.must(err)
	if len(done) != 1 || done[0].Volume.ID() != v.ID() {
		e.Errorf("to collect: %+v", done)
	}
	done, err = e.store.GC(e.Context(), false)
	e.must(err)
	if len(done) != 1 || done[0].Err != nil {
		e.Errorf("collected: %+v", done)
	}
	entries, err := os.ReadDir(filepath.Dir(v.Path))
	e.must(err)
	if len(entries) != 1 {
		e.Errorf("left: %v", entries)
	}
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
	e.empty(e.mount("shared", "1"))
	e.unmount("shared", "1")
}

func copyFile(e *env, from, to string) {
	e.Helper()
	data, err := os.ReadFile(from)
	e.must(err)
	e.must(os.WriteFile(to, data, 0o600))
}

func testInUse(e *env) {
	v := e.create("busy")
	inside := e.container(e.mount("busy", "1"))
	e.write(inside, "x")
	e.fails(e.store.Remove(e.Context(), "busy"), volume.ErrInUse, inside)
	e.reads(inside, "x")
	e.unmount("busy", "1")
	e.fails(e.store.Remove(e.Context(), "busy"), volume.ErrInUse)
	e.must(unix.Unmount(inside, 0))
	e.must(e.store.Remove(e.Context(), "busy"))
	e.absent(v.Path)
}

func testLocked(e *env) {
	e.create("vol")
	e.create("other", "tier=unsealed-vault")
	locked := errors.New("the TPM says no")
	e.locked[persist.Vault] = locked
	_, err := e.store.Mount(e.Context(), "vol", "1")
	e.fails(err, locked)
	e.empty(e.cfg.Scratch)
	_, err = e.tryCreate("new")
	e.fails(err, locked)
	e.reads(e.mount("other", "1"), "")
	e.unmount("other", "1")
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 2 {
		e.Errorf("listed: %+v", all)
	}
	e.states(map[string]string{"vol": volume.StateLocked, "other": volume.StateReady})
	st, err := e.store.Inspect(e.Context(), "vol")
	e.must(err)
	if st.Reason != locked.Error() || st.Size != 64<<20 || st.Disk == 0 {
		e.Errorf("locked: %+v", st)
	}
	delete(e.locked, persist.Vault)
	dir := e.mount("vol", "x")
	e.locked[persist.Vault] = locked // what is open stays so, and opens once more
	e.states(map[string]string{"vol": volume.StateMounted, "other": volume.StateReady})
	if st, err := e.store.Inspect(e.Context(), "vol"); err != nil || fmt.Sprint(st.Docker) != "[x]" || st.Dir != dir {
		e.Errorf("mounted: %+v, %v", st, err)
	}
	e.mount("vol", "y")
	e.unmount("vol", "y")
	e.unmount("vol", "x")
	delete(e.locked, persist.Vault)
	e.unlocks("vol")
}

// states wants each volume in a state; what was superseded is none.
func (e *env) states(want map[string]string, superseded ...volume.ID) {
	e.Helper()
	all, err := e.store.InspectAll(e.Context())
	e.must(err)
	got := map[string]string{}
	for _, st := range all {
		if slices.Contains(superseded, st.ID()) {
			if st.State != volume.StateSuperseded {
				e.Errorf("%s is %s", st.ID(), st.State)
			}
			continue
		}
		got[st.Name] = st.State
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("states are %v, want %v", got, want)
	}
}

func (e *env) unlocks(name string) {
	e.Helper()
	e.mount(name, "x")
	e.unmount(name, "x")
}

func testDamaged(e *env) {
	bad, good := e.create("bad"), e.create("good")
	f, err := os.OpenFile(bad.Path, os.O_RDWR, 0)
	e.must(err)
	_, err = f.WriteAt(make([]byte, 64<<10), 0)
	e.must(errors.Join(err, f.Close()))
	e.open()
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 2 {
		e.Fatalf("listed: %+v", all)
	}
	for _, v := range all {
		if (v.Damage != nil) != (v.ID() == bad.ID()) {
			e.Errorf("%s: %v", v.ID(), v.Damage)
		}
	}
	e.states(map[string]string{"bad": volume.StateDamaged, "good": volume.StateReady}) // the list knows its name
	_, err = e.store.Mount(e.Context(), "bad", "1")
	e.fails(err, volume.ErrDamaged, bad.ID().String())
	_, err = e.tryCreate("bad") // nobody gets an empty volume in its place
	e.fails(err, volume.ErrDamaged)
	_, err = e.store.Get(e.Context(), bad.ID().String())
	if err == nil {
		e.Error("a damaged volume has a record")
	}
	e.unlocks("good")
	// Two images that changed places on the disk open neither.
	third := e.create("third")
	e.must(os.Rename(good.Path, good.Path+".x"))
	e.must(os.Rename(third.Path, good.Path))
	e.must(os.Rename(good.Path+".x", third.Path))
	e.open()
	for _, v := range []volume.Volume{good, third} {
		_, err := e.store.Get(e.Context(), v.ID().String())
		e.fails(err, volume.ErrDamaged)
	}
}

func testHost(e *env) {
	e.create("hosted")
	at := filepath.Join(e.TempDir(), "deep", "host")
	e.must(e.store.MountAt(e.Context(), "hosted", at))
	e.must(e.store.MountAt(e.Context(), "hosted", at))
	e.write(at, "from the host")
	dir := e.mount("hosted", "1")
	e.reads(dir, "from the host")
	e.unmount("hosted", "1")
	e.reads(at, "from the host")
	second := at + "-2"
	e.must(e.store.MountAt(e.Context(), "hosted", second))
	v, err := e.store.Get(e.Context(), "hosted")
	e.must(err)
	if got, err := e.store.HostMounts(v); err != nil || fmt.Sprint(got) != fmt.Sprint([]string{at, second}) {
		e.Errorf("mounted at %v, %v", got, err)
	}
	e.fails(e.store.Remove(e.Context(), "hosted"), volume.ErrInUse, at)
	open, err := os.Open(filepath.Join(at, "file"))
	e.must(err)
	e.fails(e.store.UnmountHost(e.Context(), "hosted", at), volume.ErrInUse, "used by")
	e.must(open.Close())
	e.must(e.store.UnmountHost(e.Context(), "hosted", ""))
	if got, err := e.store.HostMounts(v); err != nil || len(got) > 0 {
		e.Errorf("mounted at %v, %v", got, err)
	}
	e.must(e.store.UnmountHost(e.Context(), "hosted", ""))
	e.create("inside")
	e.must(e.store.MountAt(e.Context(), "hosted", at))
	e.fails(e.store.MountAt(e.Context(), "inside", at), volume.ErrBusyPath)
	e.fails(e.store.MountAt(e.Context(), "inside", "relative"), volume.ErrBadName)
	e.fails(e.store.MountAt(e.Context(), "inside", filepath.Join(e.cfg.Mounts, "x")), volume.ErrBusyPath)
	e.must(e.store.UnmountHost(e.Context(), "hosted", at))
}

// A person's command beside the plugin sees what docker has mounted, and leaves it alone.
func testBeside(e *env) {
	cfg := e.cfg
	cfg.Mounts, cfg.Scratch = filepath.Join(e.TempDir(), "mounts"), filepath.Join(e.TempDir(), "scratch")
	beside, err := volume.Open(e.Context(), cfg)
	e.must(err)
	defer beside.Close()
	for _, opts := range []string{"size=32M", "clear=true"} {
		v := e.create("vol", opts)
		dir := e.mount("vol", "1")
		e.write(dir, "x")
		e.fails(beside.Remove(e.Context(), "vol"), volume.ErrInUse)
		_, err := beside.Purge(e.Context(), "vol", volume.Options{})
		e.fails(err, volume.ErrInUse)
		e.must(beside.UnmountHost(e.Context(), "vol", ""))
		e.reads(dir, "x")
		if at, err := beside.HostMounts(v); err != nil || len(at) > 0 {
			e.Errorf("%s: docker's mount counts as a person's: %v, %v", opts, at, err)
		}
		if st, err := beside.Inspect(e.Context(), "vol"); err != nil || fmt.Sprint(st.Docker) != "[1]" || st.State != volume.StateMounted || st.Dir != dir {
			e.Errorf("%s: %+v, %v", opts, st, err)
		}
		if entries, err := os.ReadDir(cfg.Mounts); err == nil && len(entries) > 0 {
			e.Errorf("%s: mounted a second time: %v", opts, entries)
		}
		e.unmount("vol", "1")
		e.absent(dir)
		e.must(beside.Remove(e.Context(), "vol"))
		e.absent(v.Path)
	}
}

// testRemade: a volume that the command line removed and made anew under its uuid kept its
// old record for the plugin, where the new file got the inode number of the old one.
func testRemade(e *env) {
	cli, err := volume.Open(e.Context(), e.cfg)
	e.must(err)
	defer cli.Close()
	const id = "11111111-2222-4333-8444-555555555555"
	for _, tier := range []string{"vault", "clear"} {
		for n := range 3 {
			r, err := volume.ParseOptions(map[string]string{"uuid": id, "tier": tier})
			e.must(err)
			want, err := cli.Create(e.Context(), fmt.Sprintf("v%d", n), r)
			e.must(err)
			got, err := e.store.Get(e.Context(), want.ID().String())
			e.must(err)
			if got.Record != want.Record {
				e.Errorf("the plugin says %+v, the command line made %+v", got.Record, want.Record)
			}
			e.must(cli.Remove(e.Context(), want.Name))
		}
	}
}

// A disk that was copied elsewhere still tells what its volumes are.
func testCopy(e *env) {
	v := e.create("copy", "size=32M", "mountopts=noatime,nodev")
	e.write(e.mount("copy", "1"), "copied")
	e.unmount("copy", "1")
	e.must(os.MkdirAll(filepath.Join(e.TempDir(), "x"), 0o700))
	there := e.TempDir()
	to := persist.Layout{Root: there}.Volumes(persist.Vault)
	e.must(os.MkdirAll(to, 0o700))
	copyFile(e, v.Path, filepath.Join(to, v.ID().String()))
	e.must(e.store.Remove(e.Context(), "copy"))
	e.cfg.Layout.Root = there
	e.open()
	got, err := e.store.Get(e.Context(), "copy")
	e.must(err)
	// That it is ours, and not something that was removed and came back, a person says.
	_, err = e.store.Mount(e.Context(), "copy", "1")
	e.fails(err, volume.ErrUnlisted, "layervault image adopt")
	_, err = e.store.Adopt(e.Context(), v.ID().String())
	e.must(err)
	if got.Record != v.Record {
		e.Errorf("the copy says %+v, was %+v", got.Record, v.Record)
	}
	e.reads(e.mount("copy", "1"), "copied")
	e.unmount("copy", "1")
}

func testRace(e *env) {
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			if _, err := e.tryCreate("same", "size=32M"); err != nil {
				return err
			}
			id := fmt.Sprint(i)
			if _, err := e.store.Mount(e.Context(), "same", id); err != nil {
				return err
			}
			return e.store.Unmount(e.Context(), "same", id)
		})
	}
	e.must(g.Wait())
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 1 {
		e.Errorf("made: %+v", all)
	}
	e.empty(e.cfg.Mounts)
	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	if _, err := e.store.Mount(ctx, "same", "late"); !errors.Is(err, context.Canceled) {
		e.Errorf("mounted for nobody: %v", err)
	}
	e.empty(e.cfg.Mounts)
}

func testMany(e *env, n int) {
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			name := fmt.Sprintf("v%03d", i)
			if _, err := e.tryCreate(name, "size=32M"); err != nil {
				return err
			}
			dir, err := e.store.Mount(e.Context(), name, "1")
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "file"), []byte(name), 0o600)
		})
	}
	e.must(g.Wait())
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != n {
		e.Errorf("%d volumes, want %d", len(all), n)
	}
	for _, v := range all {
		dir, err := e.store.Mountpoint(v)
		e.must(err)
		e.reads(dir, v.Name)
	}
	for _, v := range all {
		g.Go(func() error {
			return errors.Join(e.store.Unmount(e.Context(), v.Name, "1"), e.store.Remove(e.Context(), v.Name))
		})
	}
	e.must(g.Wait())
	e.empty(e.cfg.Layout.Volumes(persist.Vault))
	e.empty(e.cfg.Mounts)
}
