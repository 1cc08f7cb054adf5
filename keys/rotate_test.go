package keys_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/versatile"
)

// sample is an image as this package sees it: what opens it is written down, in two steps.
type sample struct {
	name string
	pass [][]byte // passphrases that open it
	step func(string) error
	bad  error
}

func (s *sample) Title() string { return s.name }

func (s *sample) opens(key *keys.TierKey) bool {
	want, err := key.Passphrase(1, "layer", s.name, "uuid")
	if err != nil {
		return false
	}
	for _, p := range s.pass {
		if bytes.Equal(p, want) {
			return true
		}
	}
	return false
}

func (s *sample) Opens(_ context.Context, key *keys.TierKey) error {
	if s.bad != nil {
		return s.bad
	}
	if !s.opens(key) {
		return errors.New("no slot opens")
	}
	return nil
}

func (s *sample) Exchange(_ context.Context, old, next *keys.TierKey) error {
	if s.bad != nil {
		return s.bad
	}
	if !s.opens(next) {
		if !s.opens(old) {
			return errors.New("neither key opens it")
		}
		p, err := next.Passphrase(1, "layer", s.name, "uuid")
		if err != nil {
			return err
		}
		if err := s.step("add"); err != nil {
			return err
		}
		s.pass = append(s.pass, p)
	}
	if err := s.step("remove"); err != nil {
		return err
	}
	p, err := next.Passphrase(1, "layer", s.name, "uuid")
	s.pass = [][]byte{p}
	return err
}

// samples makes images that key opens.
func samples(t *testing.T, key *keys.TierKey, n int) (all []*sample, list []keys.Image) {
	t.Helper()
	for i := range n {
		s := &sample{name: fmt.Sprintf("image%d", i), step: func(string) error { return nil }}
		p, err := key.Passphrase(1, "layer", s.name, "uuid")
		if err != nil {
			t.Fatal(err)
		}
		s.pass = [][]byte{p}
		all, list = append(all, s), append(list, s)
	}
	return all, list
}

func reload(t *testing.T, path string, p ...keys.Provider) (*keys.Ring, *keys.TierKey) {
	t.Helper()
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := ring.Unlock(t.Context(), p...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	return ring, key
}

// carryAll carries the slots of vault: versatile, and recovery with text.
func carryAll(t *testing.T, ring *keys.Ring, p keys.Provider, text []byte) map[string]keys.Provider {
	t.Helper()
	out := map[string]keys.Provider{}
	for _, s := range ring.Slots() {
		if out[s.ID] = p; s.Provider == recovery.Name {
			again, err := recovery.Again(s.Blob, text)
			if err != nil {
				t.Fatal(err)
			}
			out[s.ID] = again
		}
	}
	return out
}

func TestRotate(t *testing.T) {
	ring, old, p := vault(t)
	text := recovery.Generate()
	if _, err := ring.Enroll(t.Context(), old, recovery.New(recovery.KindKey, text), "paper"); err != nil {
		t.Fatal(err)
	}
	images, list := samples(t, old, 3)
	var seen []string
	before := read(t, ring.Path())
	done, err := ring.Rotate(t.Context(), old, keys.Rotation{Images: list, Carry: carryAll(t, ring, p, text),
		Progress: func(n, total int, name string) { seen = append(seen, fmt.Sprintf("%d/%d %s", n, total, name)) }})
	if err != nil || done.Images != 3 || done.Resumed || len(done.Lost) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := strings.Join(seen, " "); got != "1/3 image0 2/3 image1 3/3 image2" {
		t.Errorf("progress: %s", got)
	}
	if ring.Rotating() || ring.Proves(old) == nil {
		t.Error("the ring still knows the old key")
	}
	for _, opener := range []keys.Provider{p, recovery.Typed(text)} {
		_, key := reload(t, ring.Path(), opener)
		for _, im := range images {
			if !im.opens(key) || im.opens(old) || len(im.pass) != 1 {
				t.Errorf("%s after the rotation", im.name)
			}
		}
	}
	if !bytes.Equal(read(t, ring.Path()), read(t, ring.Path()+".bak")) || bytes.Contains(read(t, ring.Path()), []byte("previous")) {
		t.Error("the copies differ, or hold the old key")
	}
	if _, err := ring.Enroll(t.Context(), old, p, ""); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("enrolled the old key: %v", err)
	}
	// An old copy of the ring still gives the old key, which opens nothing.
	copied := filepath.Join(t.TempDir(), keys.FileName)
	write(t, copied, before)
	_, key := reload(t, copied, p)
	for _, im := range images {
		if im.opens(key) {
			t.Errorf("%s opens with the old key", im.name)
		}
	}
}

// TestRotateStopsAnywhere fails each step in turn, then takes the rotation up again
// with what is on disk.
func TestRotateStopsAnywhere(t *testing.T) {
	errStop := errors.New("stopped here")
	for stop := 0; ; stop++ {
		ring, old, p := vault(t)
		images, list := samples(t, old, 3)
		left := stop
		var last string
		step := func(name string) error {
			if left--; left < 0 {
				last = name
				return errStop
			}
			return nil
		}
		for _, im := range images {
			im.step = step
		}
		_, err := ring.Rotate(t.Context(), old, keys.Rotation{Images: list, Carry: carryAll(t, ring, p, nil), Checkpoint: step})
		if err == nil {
			if stop < 10 {
				t.Fatalf("only %d steps", stop)
			}
			t.Logf("%d steps", stop)
			return
		}
		for _, im := range images {
			im.step = func(string) error { return nil }
		}
		ring, key := reload(t, ring.Path(), p)
		if !ring.Rotating() { // stopped before it began, or after all was done
			for _, im := range images {
				if !im.opens(key) {
					t.Fatalf("stopped at %q: %s does not open", last, im.name)
				}
			}
		}
		done, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: list, Carry: carryAll(t, ring, p, nil)})
		if err != nil || done.Images != 3 {
			t.Fatalf("stopped at %q: %+v, %v", last, done, err)
		}
		_, key = reload(t, ring.Path(), p)
		for _, im := range images {
			if !im.opens(key) || im.opens(old) {
				t.Fatalf("stopped at %q: %s", last, im.name)
			}
		}
	}
}

func TestRotateRefusals(t *testing.T) {
	ring, key, p := vault(t)
	images, list := samples(t, key, 2)
	text := recovery.Generate()
	slot, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, text), "")
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, ring.Path())
	carry := carryAll(t, ring, p, text)
	only := map[string]keys.Provider{ring.Slots()[0].ID: p}
	broken := versatile.New("/nonexistent/key")
	for name, tc := range map[string]struct {
		plan keys.Rotation
		want error
	}{
		"a slot without a provider": {keys.Rotation{Images: list, Carry: only}, keys.ErrNeedsPerson},
		"a provider that fails":     {keys.Rotation{Images: list, Carry: map[string]keys.Provider{ring.Slots()[0].ID: broken, slot.ID: carry[slot.ID]}}, os.ErrNotExist},
		"no slot left":              {keys.Rotation{Images: list, Drop: []string{ring.Slots()[0].ID, slot.ID}}, keys.ErrLastSlot},
	} {
		if _, err := ring.Rotate(t.Context(), key, tc.plan); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	images[1].bad = errors.New("damaged")
	var unfinished *keys.UnfinishedError
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: list, Carry: carry}); !errors.As(err, &unfinished) || unfinished.Begun {
		t.Errorf("a damaged image: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ring.Rotate(ctx, key, keys.Rotation{Images: list, Carry: carry}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if !bytes.Equal(before, read(t, ring.Path())) {
		t.Fatal("the ring changed")
	}
	// An image that breaks on the way keeps the old key, until it is mended or given up.
	images[1].bad = nil
	bad := func(string) error { return errors.New("broke on the way") }
	images[1].step = bad
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: list, Carry: carry}); !errors.As(err, &unfinished) || !unfinished.Begun || len(unfinished.Images) != 1 {
		t.Fatalf("got %v", err)
	}
	ring, key = reload(t, ring.Path(), p)
	if !ring.Rotating() {
		t.Fatal("the old key is lost")
	}
	// The other verbs keep what the rotation needs.
	if _, err := ring.Reseal(t.Context(), key, ring.Slots()[0].ID, p); err != nil || !ring.Rotating() {
		t.Fatal(err)
	}
	done, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: list, Force: true})
	if err != nil || len(done.Lost) != 1 || !done.Resumed || ring.Rotating() {
		t.Fatalf("%+v, %v", done, err)
	}
}
