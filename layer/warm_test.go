package layer_test

import (
	"errors"
	"fmt"
	"testing"

	"layervault/layer"
)

// held counts what is open.
type held struct {
	open *int
	err  error
}

func (h held) Close() error       { *h.open--; return h.err }
func (h held) Mount(string) error { return nil }

func TestWarm(t *testing.T) {
	var w layer.Warm
	open := 0
	keep := func(id string) {
		t.Helper()
		open++
		must(t, w.Keep(id, held{open: &open}))
	}
	// use says whether an image was warm, and leaves it so.
	use := func(id string) bool {
		t.Helper()
		h := w.Borrow(id)
		if h == nil {
			return false
		}
		if w.Borrow(id) != nil {
			t.Error("lent out twice")
		}
		must(t, w.Keep(id, h))
		return true
	}
	keep("first")
	keep("first") // two opened it at once: one hold is enough
	if open != 1 {
		t.Errorf("%d open", open)
	}
	for n := range layer.MaxWarm - 1 {
		keep(fmt.Sprint(n))
	}
	if !use("first") || open != layer.MaxWarm {
		t.Errorf("%d open", open)
	}
	keep("one more")
	if open != layer.MaxWarm || !use("first") || use("0") {
		t.Error("not the least recently used was dropped")
	}
	must(t, w.Drop("first"))
	must(t, w.Drop("first"))
	if use("first") || open != layer.MaxWarm-1 {
		t.Error("drop did not")
	}
	must(t, w.DropIdle())
	if open != 0 {
		t.Errorf("%d open when idle", open)
	}
	broken := errors.New("close failed")
	open++
	must(t, w.Keep("x", held{&open, broken}))
	if err := w.DropAll(); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	keep("late")
	if open != 0 {
		t.Error("kept after the end")
	}
}
