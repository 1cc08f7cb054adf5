package layer_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/moby/sys/user"

	"layervault/layer"
)

// active makes a layer that is prepared to be committed.
func active(t *testing.T, s *layer.Store, id, parent string) {
	t.Helper()
	opts := layer.CreateOptions{ReadWrite: true, Name: "key of " + id, State: layer.Active}
	if err := s.Create(t.Context(), id, parent, opts); err != nil {
		t.Fatal(err)
	}
}

func TestCommit(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	ctx := t.Context()
	active(t, s, "base", "")
	wants := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("error %v is not %v", err, want)
		}
	}
	child := layer.CreateOptions{ReadWrite: true, Name: "child", State: layer.Active}
	wants(s.Create(ctx, "child", "base", child), layer.ErrState)
	wants(s.Commit(ctx, "nobody", "name", ""), layer.ErrNotFound)
	for _, name := range []string{"", strings.Repeat("x", 513), "a\nb", "\xff"} {
		wants(s.Commit(ctx, "base", name, ""), layer.ErrBadName)
	}
	if err := s.Commit(ctx, "base", "name of base", ""); err != nil {
		t.Fatal(err)
	}
	// Its answer, or the front door's note of it, was lost.
	wants(s.Commit(ctx, "base", "another name", ""), nil)
	wants(s.Create(ctx, "child", "base", child), nil)
	wants(s.Create(ctx, "view", "base", layer.CreateOptions{ReadWrite: true, Name: "view", State: layer.Viewed}), nil)

	s = reopen(t, s, cfg)
	base, err := s.Get("base")
	if err != nil || base.Name != "another name" || base.State != layer.Committed || base.Kind != layer.Writable || base.Version != 3 {
		t.Errorf("%+v, %v", base, err)
	}
	if r, err := s.Get("child"); err != nil || r.ParentUUID != base.UUID || r.UUID == "" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Get("view"); err != nil || r.Kind != layer.Fresh || r.ParentUUID != base.UUID {
		t.Errorf("%+v, %v", r, err)
	}
	// Final is final.
	wants(s.Reset(ctx, "base"), layer.ErrState)
	_, err = s.Import(ctx, "base", bytes.NewReader(emptyTar), user.IdentityMapping{})
	wants(err, layer.ErrState)
	_, err = s.MakeWritable(ctx, "view", layer.CreateOptions{})
	wants(err, layer.ErrState)
	_, err = s.Import(ctx, "view", bytes.NewReader(emptyTar), user.IdentityMapping{})
	wants(err, layer.ErrState)
	wants(s.Commit(ctx, "view", "name", ""), layer.ErrState)
	wants(s.Remove(ctx, "base"), layer.ErrInUse)
}

// A layer gets its parent when it is committed, as with parallel unpacking.
func TestCommitOnParent(t *testing.T) {
	s := open(t, config(t))
	ctx := t.Context()
	for _, id := range []string{"a", "b", "c"} {
		active(t, s, id, "")
	}
	if err := s.Commit(ctx, "b", "B", "a"); !errors.Is(err, layer.ErrState) {
		t.Errorf("on a layer that is not committed: %v", err)
	}
	if err := s.Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "b", "B", "c"); !errors.Is(err, layer.ErrNotFound) {
		t.Errorf("on a layer that is gone: %v", err)
	}
	if err := errors.Join(s.Commit(ctx, "a", "A", ""), s.Commit(ctx, "b", "B", "a"), s.Commit(ctx, "b", "B", "a")); err != nil {
		t.Fatal(err)
	}
	chain, err := s.Chain("b")
	if err != nil || len(chain) != 2 || chain[1].ID != "a" || chain[0].ParentUUID != chain[1].UUID {
		t.Errorf("%+v, %v", chain, err)
	}
	if err := s.Remove(ctx, "a"); !errors.Is(err, layer.ErrInUse) {
		t.Errorf("removed a parent: %v", err)
	}
	active(t, s, "d", "a")
	if err := s.Commit(ctx, "d", "D", "b"); !errors.Is(err, layer.ErrState) {
		t.Errorf("moved to another parent: %v", err)
	}
}
