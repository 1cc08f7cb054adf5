package layer_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/moby/sys/user"

	"layervault/layer"
)

// A caller that knows its tars to be whole may fill a layer into which another import broke off,
// or that an earlier process made.
func TestRenew(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	ctx := t.Context()
	wants := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("error %v is not %v", err, want)
		}
	}
	fill := func(id string, tar []byte) error {
		_, err := s.Import(ctx, id, bytes.NewReader(tar), user.IdentityMapping{})
		return err
	}
	for _, id := range []string{"old", "written"} {
		must(t, s.Create(ctx, id, "", layer.CreateOptions{ReadWrite: id == "written", Name: id, State: layer.Active}))
	}
	s = reopen(t, s, cfg)
	wants(fill("old", emptyTar), layer.ErrInterrupted)
	must(t, s.Renew(ctx, "old"))
	_, err := s.Import(ctx, "old", iotest.ErrReader(io.ErrUnexpectedEOF), user.IdentityMapping{})
	wants(err, layer.ErrCutOff)
	wants(fill("old", emptyTar), layer.ErrInterrupted)
	must(t, s.Renew(ctx, "old"))
	must(t, fill("old", emptyTar))
	wants(s.Renew(ctx, "old"), layer.ErrNotFresh)

	must(t, s.Renew(ctx, "written"))
	must(t, fill("written", emptyTar))
	wants(s.Renew(ctx, "nobody"), layer.ErrNotFound)

	must(t, s.Create(ctx, "done", "", layer.CreateOptions{ReadWrite: true, Name: "done", State: layer.Active}))
	must(t, s.Commit(ctx, "done", "committed", ""))
	wants(s.Renew(ctx, "done"), layer.ErrState)
}
