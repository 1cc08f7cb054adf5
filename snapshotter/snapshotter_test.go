package snapshotter_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"layervault/snapshotter"
	"layervault/stack"
)

// What was handed out stays valid over a restart of the process, and is opened again after a
// reboot.
func TestRestart(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.commit("image", "base")
	m := b.prepare("container", "image")
	view, err := b.View(b.ctx, "view", "image")
	b.ok(err)
	b.at(m, func(dir string) {
		b.write(filepath.Join(dir, "written"), "")
		b.restart() // while it is mounted
		b.write(filepath.Join(dir, "more"), "")
		attached := b.attached()
		for _, name := range []string{"base", "image", "container"} {
			if id := b.layerOf(name).ID; !slices.Contains(attached, id) {
				t.Errorf("%s is not attached after a restart", name)
			}
		}
	})
	b.shows(m, "base image more written") // what was handed out before, mounted now
	b.shows(view, "base image")
	again, err := b.Mounts(b.ctx, "container")
	b.ok(err)
	if !slices.Equal(again[0].Options, m[0].Options) {
		t.Errorf("mount is %v, was %v", again, m)
	}
	b.reboot()
	if attached := b.attached(); len(attached) != 0 {
		t.Errorf("attached at boot: %v", attached)
	}
	for key, want := range map[string]string{"container": "base image more written", "view": "base image"} {
		m, err := b.Mounts(b.ctx, key)
		b.ok(err)
		b.shows(m, want)
	}
	b.reboot()
	// Straight after a boot, nothing attached.
	if u, err := b.Usage(b.ctx, "container"); err != nil || u.Inodes != 3 {
		t.Errorf("usage %+v, %v", u, err)
	}
	b.ok(b.Commit(b.ctx, "next", "container"))
	b.shows(b.prepare("of next", "next"), "base image more written")
}

// A committed snapshot is shown read-only at the very path where it was written.
func TestCommittedIsReadOnly(t *testing.T) {
	b := newBench(t)
	m := b.prepare("key", "")
	b.at(m, func(dir string) { b.write(filepath.Join(dir, "file"), "") })
	b.ok(b.Commit(b.ctx, "name", "key"))
	b.prepare("child", "name") // attached again, if it was let go
	refuses := func(when string) {
		t.Helper()
		path := filepath.Join(b.At, b.layerOf("name").ID)
		if err := os.WriteFile(filepath.Join(path, "diff", "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a committed snapshot %s: %v", when, err)
		}
	}
	refuses("attached since before")
	b.reboot()
	view, err := b.View(b.ctx, "view", "name")
	b.ok(err)
	refuses("attached anew")
	b.at(view, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a view: %v", err)
		}
	})
	_, err = b.Mounts(b.ctx, "name")
	b.wants(err, errdefs.ErrFailedPrecondition)
	_, err = b.Mounts(b.ctx, "key")
	b.wants(err, errdefs.ErrNotFound)
}

// What is attached lies in the host's mount namespace, and is closed to users of the host.
func TestClosedToOthers(t *testing.T) {
	b := newBench(t)
	b.prepare("key", "")
	for _, dir := range []string{b.At, filepath.Join(b.dir, "snapshots")} {
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
}

// Lowers are attached once for all, at one path, and go when nothing shows them.
func TestShared(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.commit("image", "base")
	lowers := func(m []mount.Mount) string {
		i := slices.IndexFunc(m[0].Options, func(o string) bool { return strings.HasPrefix(o, "lowerdir=") })
		return m[0].Options[i]
	}
	var all []string
	for n := range 3 {
		all = append(all, lowers(b.prepare(fmt.Sprint("c", n), "image")))
	}
	if all = slices.Compact(all); len(all) != 1 {
		t.Errorf("lowers differ: %v", all)
	}
	b.eventually("more is attached", func() bool { return len(b.attached()) == 5 })
	b.ok(b.Remove(b.ctx, "c0"))
	b.ok(b.Remove(b.ctx, "c1"))
	b.eventually("more is attached", func() bool { return len(b.attached()) == 3 })
	b.restart()
	b.ok(b.Remove(b.ctx, "c2"))
	b.eventually("something is left", func() bool {
		names, err := os.ReadDir(b.At)
		b.ok(err)
		return len(names) == 0 && len(b.attached()) == 0
	})
}

// A removed snapshot's key can be used at once; its image is erased behind the answer.
func TestRemove(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.prepare("key", "base")
	old := b.layerOf("key").ID
	b.wants(b.Remove(b.ctx, "base"), errdefs.ErrFailedPrecondition)
	b.wants(b.Remove(b.ctx, "nobody"), errdefs.ErrNotFound)
	b.ok(b.Remove(b.ctx, "key"))
	b.prepare("key", "base")
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	if b.Store.Exists(old) {
		t.Error("the layer is still there")
	}
	if _, err := os.Stat(b.Store.ImagePath(old)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its image: %v", err)
	}
	// While it is mounted it stays readable there.
	m, err := b.Mounts(b.ctx, "key")
	b.ok(err)
	b.at(m, func(dir string) {
		b.ok(b.Remove(b.ctx, "key"))
		b.ok(b.Snapshotter.Cleanup(b.ctx))
		if _, err := os.Stat(filepath.Join(dir, "base")); err != nil {
			t.Error(err)
		}
	})
	b.ok(b.Remove(b.ctx, "base"))
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	if ids, err := b.Store.IDs(); err != nil || len(ids) != 0 {
		t.Errorf("layers left: %v, %v", ids, err)
	}
}

func TestBadInput(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.prepare("key", "base")
	for name, c := range map[string]struct {
		key, parent string
		labels      []string
		want        error
	}{
		"key in use":         {"key", "", nil, errdefs.ErrAlreadyExists},
		"name in use":        {"base", "", nil, errdefs.ErrAlreadyExists},
		"unknown parent":     {"new", "nobody", nil, errdefs.ErrNotFound},
		"active parent":      {"new", "key", nil, errdefs.ErrInvalidArgument},
		"no size":            {"new", "base", []string{"containerd.io/snapshot/max-size", "much"}, errdefs.ErrInvalidArgument},
		"too small":          {"new", "base", []string{"containerd.io/snapshot/max-size", "1024"}, errdefs.ErrInvalidArgument},
		"too large":          {"new", "base", []string{"containerd.io/snapshot/max-size", "17TiB"}, errdefs.ErrInvalidArgument},
		"negative size":      {"new", "base", []string{"containerd.io/snapshot/max-size", "-1"}, errdefs.ErrInvalidArgument},
		"no mapping":         {"new", "base", []string{snapshots.LabelSnapshotUIDMapping, "x"}, errdefs.ErrInvalidArgument},
		"mapping, no root":   {"new", "base", []string{snapshots.LabelSnapshotUIDMapping, "1:2:3", snapshots.LabelSnapshotGIDMapping, "0:2:3"}, errdefs.ErrInvalidArgument},
		"key too long":       {strings.Repeat("x", 600), "base", nil, errdefs.ErrInvalidArgument},
		"key that is binary": {"a\x00b", "base", nil, errdefs.ErrInvalidArgument},
	} {
		_, err := b.Prepare(b.ctx, c.key, c.parent, withLabels(c.labels...))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if c.key == "new" {
			if _, err := b.Stat(b.ctx, "new"); !errdefs.IsNotFound(err) {
				t.Errorf("%s left the snapshot: %v", name, err)
			}
		}
	}
	b.wants(b.Commit(b.ctx, "base", "key"), errdefs.ErrAlreadyExists)
	b.wants(b.Commit(b.ctx, "other", "base"), errdefs.ErrFailedPrecondition)
	b.wants(b.Commit(b.ctx, "other", "nobody"), errdefs.ErrNotFound)
	b.prepare("unknown label", "base", "containerd.io/snapshot/of.the.future", "x")
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	ids, err := b.Store.IDs()
	b.ok(err)
	if len(ids) != 3 { // base, key, unknown label
		t.Errorf("layers are left: %v", ids)
	}
}

// A view of nothing is what containerd compares the lowest layer with.
func TestViewOfNothing(t *testing.T) {
	b := newBench(t)
	m, err := b.View(b.ctx, "nothing", "")
	b.ok(err)
	b.shows(m, "")
	b.reboot()
	m, err = b.Mounts(b.ctx, "nothing")
	b.ok(err)
	b.at(m, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write: %v", err)
		}
	})
	b.ok(b.Remove(b.ctx, "nothing"))
}

func TestQuota(t *testing.T) {
	b := newBench(t)
	for key, c := range map[string]struct {
		labels []string
		fits   int64
	}{
		"default":  {nil, 40 << 20},
		"labelled": {[]string{"containerd.io/snapshot/max-size", "20MiB"}, 8 << 20},
		"bytes":    {[]string{"containerd.io/snapshot/max-size", "134217728"}, 100 << 20},
	} {
		b.at(b.prepare(key, "", c.labels...), func(dir string) {
			f, err := os.Create(filepath.Join(dir, "file"))
			b.ok(err)
			defer f.Close()
			b.ok(unix.Fallocate(int(f.Fd()), 0, 0, c.fits))
			if err := unix.Fallocate(int(f.Fd()), 0, 0, 2*c.fits+(20<<20)); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%s: more than the size: %v", key, err)
			}
		})
	}
}

// Usage by the file system's counters is what a walk of the files says.
func TestUsage(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	m := b.prepare("key", "base")
	check := func(key string) {
		t.Helper()
		want, err := stack.New(b.Store, user.IdentityMapping{}, slog.New(slog.DiscardHandler)).Usage(b.ctx, b.layerOf(key))
		b.ok(err)
		if got, err := b.Usage(b.ctx, key); err != nil || got.Inodes != want.Inodes || got.Size != want.Bytes {
			t.Errorf("%s: usage %+v, by walking %+v (%v)", key, got, want, err)
		}
	}
	check("key")
	b.at(m, func(dir string) {
		for n := range 200 {
			b.ok(os.MkdirAll(filepath.Join(dir, fmt.Sprint("d", n%7)), 0o755))
			b.write(filepath.Join(dir, fmt.Sprint("d", n%7), fmt.Sprint("f", n)), strings.Repeat("x", n*100))
		}
		b.ok(os.Link(filepath.Join(dir, "d0", "f0"), filepath.Join(dir, "link")))
		b.ok(os.Symlink(strings.Repeat("x", 200), filepath.Join(dir, "symlink")))
		b.ok(os.Remove(filepath.Join(dir, "base")))
		b.ok(unix.Setxattr(filepath.Join(dir, "d0"), "user.big", []byte(strings.Repeat("x", 2000)), 0))
		check("key")
	})
	check("key")
	b.ok(b.Commit(b.ctx, "name", "key"))
	check("name")
	check("base")
	b.reboot()
	check("name")
	if u, err := b.Usage(b.ctx, "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("%+v, %v", u, err)
	}
}

// The owner of a root is the parent's, or the one that labels name.
func TestRootOwner(t *testing.T) {
	b := newBench(t)
	b.at(b.prepare("of base", ""), func(dir string) { b.ok(os.Chown(dir, 7, 8)) })
	b.ok(b.Commit(b.ctx, "base", "of base"))
	for key, c := range map[string]struct {
		labels   []string
		uid, gid uint32
	}{
		"inherited": {nil, 7, 8},
		"labelled":  {[]string{snapshots.LabelSnapshotUIDMapping, "5:6:1,0:1000:10", snapshots.LabelSnapshotGIDMapping, "0:2000:10"}, 1000, 2000},
	} {
		b.at(b.prepare(key, "base", c.labels...), func(dir string) {
			var st unix.Stat_t
			b.ok(unix.Stat(dir, &st))
			if st.Uid != c.uid || st.Gid != c.gid || st.Mode&0o777 != 0o755 {
				t.Errorf("%s: root is %d:%d, %o", key, st.Uid, st.Gid, st.Mode)
			}
		})
	}
}

// A snapshot without a parent gets one when it is committed.
func TestRebase(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.at(b.prepare("key", ""), func(dir string) { b.write(filepath.Join(dir, "own"), "") })
	parent := func(info *snapshots.Info) error { info.Parent = "base"; return nil }
	b.ok(b.Commit(b.ctx, "name", "key", parent))
	b.shows(b.prepare("child", "name"), "base own")
	b.wants(b.Remove(b.ctx, "base"), errdefs.ErrFailedPrecondition)
	b.reboot()
	m, err := b.Mounts(b.ctx, "child")
	b.ok(err)
	b.shows(m, "base own")
}

func TestConcurrent(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			key := fmt.Sprint("key", n)
			for range 3 {
				if _, err := b.Prepare(b.ctx, key, "base"); err != nil {
					t.Error(err)
				}
				if _, err := b.Usage(b.ctx, key); err != nil {
					t.Error(err)
				}
				if _, err := b.Mounts(b.ctx, key); err != nil {
					t.Error(err)
				}
				if err := b.Commit(b.ctx, key+" done", key); err != nil {
					t.Error(err)
				}
				if _, err := b.View(b.ctx, key, key+" done"); err != nil {
					t.Error(err)
				}
				if err := errors.Join(b.Remove(b.ctx, key), b.Remove(b.ctx, key+" done")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	if ids, err := b.Store.IDs(); err != nil || len(ids) != 1 {
		t.Errorf("layers left: %v, %v", ids, err)
	}
}

func TestClosed(t *testing.T) {
	b := newBench(t)
	b.ok(b.Close())
	_, err := b.Prepare(b.ctx, "key", "")
	b.wants(err, snapshotter.ErrClosed)
	b.wants(err, errdefs.ErrUnavailable)
	_, err = b.Stat(b.ctx, "key")
	b.wants(err, snapshotter.ErrClosed)
}
