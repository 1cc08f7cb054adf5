package drivertest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/user"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/driver"
	"layervault/layer"
)

func testConcurrent(t *testing.T, make Factory) {
	const containers = 20
	b := started(t, make)
	b.apply("base", "", makeTar(t, file("base", "base")))
	b.apply("image", "base", makeTar(t, file("image", "image")))
	g, ctx := errgroup.WithContext(b.ctx)
	for n := range containers {
		id := fmt.Sprintf("c%d", n)
		g.Go(func() error {
			if err := b.CreateReadWrite(ctx, id, "image", nil); err != nil {
				return err
			}
			dir, err := b.Get(ctx, id, "")
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(dir, "base")); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, id), []byte(id), 0o644); err != nil {
				return err
			}
			in, err := b.Diff(ctx, id, "image") // while it runs
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, in); err != nil {
				return err
			}
			if err := in.Close(); err != nil {
				return err
			}
			if err := b.Put(ctx, id); err != nil {
				return err
			}
			return b.Remove(ctx, id)
		})
		g.Go(func() error { // the same layer, all at once
			dir, err := b.Get(ctx, "image", "")
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(dir, "image")); err != nil {
				return err
			}
			return b.Put(ctx, "image")
		})
	}
	b.ok(g.Wait())
}

func testUserNS(t *testing.T, make Factory) {
	b := newBench(t, make)
	maps := []user.IDMap{{ID: 0, ParentID: 100000, Count: 65536}}
	b.ok(b.Init(b.ctx, driver.Options{Home: b.home, UIDMaps: maps, GIDMaps: maps}))
	t.Cleanup(b.removeAll)
	owner := func(name string, uid, gid uint32) {
		t.Helper()
		var st unix.Stat_t
		b.ok(unix.Lstat(name, &st))
		if st.Uid != uid || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
	f := file("file", "x")
	f.Uid, f.Gid = 5, 6
	b.apply("base", "", makeTar(t, f, file(".wh.nothing", "")))
	b.create("top", "base")
	b.with("top", func(dir string) {
		owner(dir, 100000, 100000)
		owner(filepath.Join(dir, "file"), 100005, 100006)
		owner(b.home, uint32(os.Getuid()), 100000)
		b.ok(os.Remove(filepath.Join(dir, "file"))) // a whiteout that host root made
		write(t, dir, "mine", "x")
		b.ok(os.Chown(filepath.Join(dir, "mine"), 100007, 100008))
	})
	data := b.diff("top", "base")
	if names := tarNames(t, data); !contains(names, ".wh.file") || !contains(names, "mine") {
		t.Errorf("the tar holds %v", names)
	}
	b.apply("copy", "base", data)
	b.with("copy", func(dir string) { owner(filepath.Join(dir, "mine"), 100007, 100008) })
	b.create("foreign", "")
	b.with("foreign", func(dir string) {
		write(t, dir, "outside", "x") // of an owner that no container id maps to
		in, err := b.Diff(b.ctx, "foreign", "")
		b.ok(err)
		if _, err := io.Copy(io.Discard, in); err == nil {
			t.Error("a file outside the maps went into a tar")
		}
		b.ok(in.Close())
	})
}

func testRestart(t *testing.T, make Factory) {
	b := started(t, make)
	b.apply("base", "", makeTar(t, file("base", "base")))
	b.ok(b.CreateReadWrite(b.ctx, "running", "base", nil))
	dir := b.get("running")
	write(t, dir, "before", "before")
	open, err := os.Open(filepath.Join(dir, "before"))
	b.ok(err)

	// The plugin dies and comes back without an Init; the container runs on.
	b.ok(b.Close(b.ctx))
	wantContent(t, dir, "before", "before")
	b.Driver = driver.New(b.cfg)
	second := driver.New(b.cfg)
	b.ok(b.Resume(b.ctx))
	b.wants(second.Init(b.ctx, driver.Options{Home: b.home}), layer.ErrBusy)
	b.ok(second.Close(b.ctx))
	write(t, dir, "after", "after")
	if again := b.get("running"); again != dir {
		t.Errorf("Get gave %s after the restart, %s before", again, dir)
	}
	b.put("running")
	wantContent(t, dir, "after", "after") // found mounted: that counts as one
	b.put("running")
	wantGone(t, dir, "")
	b.ok(open.Close())

	// dockerd is restarted and says Init again.
	b.get("running")
	b.get("running")
	b.init()
	b.put("running")
	wantGone(t, dir, "")

	// A mount that somebody else took away is made again.
	b.get("running")
	b.ok(unix.Unmount(dir, unix.MNT_DETACH))
	b.get("running")
	wantContent(t, dir, "after", "after")
	b.put("running")
	b.put("running")

	// Cleanup takes what is idle and leaves what somebody works in.
	b.get("base")
	b.get("running")
	in, err := os.Open(dir)
	b.ok(err)
	b.ok(b.Cleanup(b.ctx))
	wantContent(t, dir, "after", "after")
	wantGone(t, filepath.Join(b.home, "base"), "merged")
	b.ok(in.Close())
	b.put("running")
	wantGone(t, dir, "")
	b.ok(b.Cleanup(b.ctx))
}

func testStream(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("x", "")
	b.with("x", func(dir string) { write(t, dir, "big", strings.Repeat("x", 1<<20)) })
	// Left unread, and broken off by the context: nothing stays mounted either way.
	for range 3 {
		in, err := b.Diff(b.ctx, "x", "")
		b.ok(err)
		if _, err := io.ReadFull(in, make1k()); err != nil {
			t.Error(err)
		}
		b.ok(in.Close())
		b.ok(in.Close())
	}
	ctx, cancel := context.WithCancel(b.ctx)
	in, err := b.Diff(ctx, "x", "")
	b.ok(err)
	cancel()
	if _, err := io.Copy(io.Discard, in); err == nil {
		t.Error("a cancelled Diff ended like a whole one")
	}
	b.ok(in.Close())
	if left, err := filepath.Glob(filepath.Join(b.cfg.Scratch, "*")); err != nil || len(left) != 0 {
		t.Errorf("left in scratch: %v (%v)", left, err)
	}
}

func make1k() []byte { return make([]byte, 1024) }

func testInfo(t *testing.T, make Factory) {
	b := started(t, make)
	b.apply("base", "", makeTar(t, file("dir/file", "content")))
	b.ok(b.CreateReadWrite(b.ctx, "top", "base", nil))
	for id, kind := range map[string]string{"base": "sealed", "top": "writable"} {
		meta, err := b.GetMetadata(b.ctx, id)
		b.ok(err)
		if meta["Kind"] != kind || len(meta["LUKSUUID"]) != 36 || meta["Cipher"] == "" || meta["ImagePath"] == "" ||
			meta["MergedDir"] != filepath.Join(b.home, id, "merged") {
			t.Errorf("metadata of %s: %v", id, meta)
		}
	}
	rows := map[string]string{}
	for _, r := range b.Status(b.ctx) {
		rows[r[0]] = r[1]
	}
	for row, want := range map[string]string{"Vault": "unlocked", "Layers": "2", "Sector Size": "4096", "Cipher": "aes-xts-plain64"} {
		if rows[row] != want {
			t.Errorf("status row %s is %q, want %q", row, rows[row], want)
		}
	}
	// A locked vault says so and why.
	cfg := b.cfg
	cfg.Unlock = func(context.Context) (crypt.KeySource, error) { return nil, fmt.Errorf("PCR 7 changed\nrun X") }
	locked := driver.New(cfg)
	err := locked.Init(b.ctx, driver.Options{Home: b.home})
	if err == nil || !strings.Contains(err.Error(), "PCR 7 changed") {
		t.Errorf("Init of a locked vault: %v", err)
	}
	if rows := locked.Status(b.ctx); rows[0] != [2]string{"Vault", "locked"} || !strings.Contains(rows[1][1], "PCR 7") {
		t.Errorf("status of a locked vault: %v", rows)
	}
	b.ok(locked.Close(b.ctx))
}
