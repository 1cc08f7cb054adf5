package drivertest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"layervault/driver"
	"layervault/layer"
)

// testSeal: a step of a build is sealed while a container runs on it. The container goes on, before
// and after its next start; nobody can write to the step any more; its tar stays the same.
func testSeal(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("step", "")
	var want map[string]string
	b.with("step", func(dir string) {
		fill(t, dir)
		for _, d := range []string{"gone", "replaced", "merged"} {
			write(t, dir, d+"/old", d)
		}
		want = snapshot(t, dir)
	})
	b.sealRefuses("step") // no layer stands on it
	b.ok(b.CreateReadWrite(b.ctx, "c", "step", nil))
	b.sealRefuses("c") // a container's
	b.with("step", func(string) { b.sealRefuses("step") })
	tar := b.diff("step", "")
	b.create("over", "step") // a step of a build, which is sealed too
	b.with("over", func(dir string) { change(t, dir) })
	b.create("next", "over")
	overTar := b.diff("over", "step")

	running := b.get("c")
	open, err := os.Open(filepath.Join(running, "deep/er/file"))
	b.ok(err)
	change(t, running)
	b.ok(os.Chmod(filepath.Join(running, "sticky"), 0o700))
	now, numbers := snapshot(t, running), b.inodes(running)
	for _, id := range []string{"step", "over"} {
		done, err := b.Seal(b.ctx, id)
		b.ok(err)
		if !done.Done || b.kind(id) != layer.Sealed {
			t.Errorf("%s: %+v, kind %s", id, done, b.kind(id))
		}
		if done, err := b.Seal(b.ctx, id); err != nil || done.Done {
			t.Errorf("%s once more: %+v, %v", id, done, err)
		}
	}
	wantSame(t, "the running container", snapshot(t, running), now)
	b.sameInodes("the running container", numbers, b.inodes(running))
	write(t, running, "merged/late", "written after the sealing")
	var body [10]byte
	if _, err := open.ReadAt(body[:], 50); err != nil || string(body[:]) != "0123456789" {
		t.Errorf("an open file: %q, %v", body, err)
	}
	b.ok(open.Close())
	now = snapshot(t, running)
	b.put("c")

	changes := b.changed("c", "step")
	b.with("c", func(dir string) {
		wantSame(t, "the container, started again", snapshot(t, dir), now)
		b.inodes(dir) // one device, no number twice
	})
	if d := b.changed("c", "step"); d != changes {
		t.Errorf("the container's changes: %s, then %s", changes, d)
	}
	b.with("step", func(dir string) {
		wantSame(t, "the step", snapshot(t, dir), want)
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err == nil {
			t.Error("the sealed step can be written")
		}
	})
	if !bytes.Equal(tar, b.diff("step", "")) || !bytes.Equal(overTar, b.diff("over", "step")) {
		t.Error("the tar of a step changed")
	}
	b.with("next", func(dir string) { wantGone(t, dir, "gone") })

	s, err := b.Store()
	b.ok(err)
	b.ok(s.Cool())
	if left, err := s.EraseReplaced(b.ctx); err != nil || left != 0 {
		t.Errorf("%d replaced images are left, %v", left, err)
	}
}

// testSealMounted: a step that was mounted, for however short a time, while it was being sealed may
// have been written to. It stays as it is.
func testSealMounted(t *testing.T, make Factory) {
	hook := func() {}
	b := started(t, func(cfg *driver.Config) {
		make(cfg)
		cfg.Checkpoint = func(op, _, step string) error {
			if op == "reseal" && step == "image made" {
				hook()
			}
			return nil
		}
	})
	b.create("step", "")
	b.with("step", func(dir string) { write(t, dir, "file", "before") })
	b.create("on", "step")
	hook = func() {
		hook = func() {}
		b.with("step", func(dir string) { write(t, dir, "file", "meanwhile") })
	}
	b.sealRefuses("step")
	hook = func() {
		hook = func() {}
		b.with("on", func(string) {}) // which mounts the step too, but nobody can write to it
	}
	done, err := b.Seal(b.ctx, "step")
	b.ok(err)
	if !done.Done {
		t.Error("not sealed")
	}
	b.with("step", func(dir string) { wantContent(t, dir, "file", "meanwhile") })
}

// change does to a tree of fill what a container may do.
func change(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"gone", "replaced"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "replaced/new", "new")
	write(t, dir, "merged/new", "new")
	write(t, dir, "hard link", "both names")
}

// sealRefuses wants a layer to be left as it is.
func (b *bench) sealRefuses(id string) {
	b.Helper()
	was := b.kind(id)
	done, err := b.Seal(b.ctx, id)
	b.wants(err, layer.ErrNotFinal)
	if done.Done || b.kind(id) != was {
		b.Errorf("%s: %+v, kind %s, was %s", id, done, b.kind(id), was)
	}
}

func (b *bench) changed(id, parent string) string {
	b.Helper()
	changes, err := b.Changes(b.ctx, id, parent)
	b.ok(err)
	return fmt.Sprint(changes)
}

func (b *bench) kind(id string) layer.Kind {
	b.Helper()
	s, err := b.Store()
	b.ok(err)
	r, err := s.Get(id)
	b.ok(err)
	return r.Kind
}
