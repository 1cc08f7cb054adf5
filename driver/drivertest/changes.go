package drivertest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"
)

func isENOSPC(err error) bool { return errors.Is(err, unix.ENOSPC) }

func testChanges(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("base", "")
	b.with("base", func(dir string) {
		for _, name := range []string{"keep", "modify", "delete", "dir/keep", "dir/delete", "opaque/a", "opaque/b", "touched/file", "capable", "becomes-dir", "becomes-file/x"} {
			write(t, dir, name, "old")
		}
	})
	all := []archive.Change{
		{Path: "/becomes-dir"}, {Path: "/becomes-file"}, {Path: "/becomes-file/x"}, {Path: "/capable"}, {Path: "/delete"},
		{Path: "/dir"}, {Path: "/dir/delete"}, {Path: "/dir/keep"}, {Path: "/keep"}, {Path: "/modify"}, {Path: "/opaque"},
		{Path: "/opaque/a"}, {Path: "/opaque/b"}, {Path: "/touched"}, {Path: "/touched/file"},
	}
	for i := range all {
		all[i].Kind = archive.ChangeAdd
	}
	want := func(id, parent string, want []archive.Change) {
		t.Helper()
		got, err := b.Changes(b.ctx, id, parent)
		b.ok(err)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("changes of %s over %q (-want +got):\n%s", id, parent, d)
		}
	}
	want("base", "", all)

	b.create("upper", "base")
	want("upper", "base", nil)
	b.get("upper")
	want("upper", "base", nil)
	dir := filepath.Join(b.home, "upper/merged")
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, dir, "modify", "newer")
	write(t, dir, "new/file", "new")
	b.ok(os.Remove(at("delete")))
	b.ok(os.Remove(at("dir/delete")))
	b.ok(os.RemoveAll(at("opaque")))
	write(t, dir, "opaque/b", "newer")
	b.ok(os.Chtimes(at("touched"), when, when))
	write(t, dir, "never/was", "here")
	b.ok(os.RemoveAll(at("never")))
	b.ok(unix.Lsetxattr(at("capable"), "security.capability", capNetRaw, 0))
	b.ok(os.Chtimes(at("capable"), when, when))
	b.ok(os.Remove(at("becomes-dir")))
	write(t, dir, "becomes-dir/file", "new")
	b.ok(os.RemoveAll(at("becomes-file")))
	write(t, dir, "becomes-file", "new")
	upper := []archive.Change{
		{Path: "/becomes-dir", Kind: archive.ChangeModify},
		{Path: "/becomes-dir/file", Kind: archive.ChangeAdd},
		{Path: "/becomes-file", Kind: archive.ChangeModify},
		{Path: "/capable", Kind: archive.ChangeModify},
		{Path: "/delete", Kind: archive.ChangeDelete},
		{Path: "/dir", Kind: archive.ChangeModify},
		{Path: "/dir/delete", Kind: archive.ChangeDelete},
		{Path: "/modify", Kind: archive.ChangeModify},
		{Path: "/new", Kind: archive.ChangeAdd},
		{Path: "/new/file", Kind: archive.ChangeAdd},
		{Path: "/opaque", Kind: archive.ChangeModify},
		{Path: "/opaque/a", Kind: archive.ChangeDelete},
		{Path: "/opaque/b", Kind: archive.ChangeModify},
	}
	want("upper", "base", upper) // mounted
	b.put("upper")
	want("upper", "base", upper) // not mounted
	b.changesOverAnother(want, upper)
}

// changesOverAnother compares a layer on upper with layers that it does not directly stand on:
// then both views are compared. inUpper is what upper changes over base.
func (b *bench) changesOverAnother(want func(id, parent string, want []archive.Change), inUpper []archive.Change) {
	t := b.T
	b.create("top", "upper")
	b.with("top", func(dir string) { write(t, dir, "top", "top") })
	want("top", "upper", []archive.Change{{Path: "/top", Kind: archive.ChangeAdd}})
	wantOver := append([]archive.Change{}, inUpper...)
	wantOver = append(wantOver, archive.Change{Path: "/top", Kind: archive.ChangeAdd})
	want("top", "base", wantOver)
	flat := b.diff("top", "")
	b.apply("flat", "", flat)
	var merged map[string]string
	b.with("top", func(dir string) { merged = snapshot(t, dir) })
	b.with("flat", func(dir string) { wantSame(t, "flattened", snapshot(t, dir), merged) })
	over := b.diff("top", "base")
	b.create("squashed", "base")
	_, err := b.ApplyDiff(b.ctx, "squashed", "base", bytes.NewReader(over))
	b.ok(err)
	b.with("squashed", func(dir string) { wantSame(t, "squashed", snapshot(t, dir), merged) })

	whole, err := b.DiffSize(b.ctx, "top", "")
	b.ok(err)
	flatSize, err := b.DiffSize(b.ctx, "flat", "")
	b.ok(err)
	if whole != flatSize {
		t.Errorf("the whole of top has %d bytes, flattened %d", whole, flatSize)
	}
}
