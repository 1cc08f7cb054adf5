package keys_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/versatile"
)

// memory is an anchor as a TPM is one, with a count of the writes that reach it: after
// that the machine is off.
type memory struct {
	places map[uint32]*memoryPlace
	left   int // writes until the power goes; negative for ever
}

type memoryPlace struct{ auth, data []byte }

var errOff = errors.New("the power is gone")

func newMemory() *memory { return &memory{places: map[uint32]*memoryPlace{}, left: -1} }

func (m *memory) spend() error {
	if m.left == 0 {
		return errOff
	}
	m.left--
	return nil
}

func (m *memory) Kind() string { return "memory" }

func (m *memory) Places(context.Context) ([]keys.AnchorPlace, error) {
	out := []keys.AnchorPlace{{Place: 1}, {Place: 2}}
	for i := range out {
		if p := m.places[out[i].Place]; p != nil {
			out[i].Exists, out[i].Empty, out[i].Data = true, p.data == nil, bytes.Clone(p.data)
		}
	}
	return out, nil
}

func (m *memory) find(place uint32, auth []byte) (*memoryPlace, error) {
	p := m.places[place]
	if p == nil || !bytes.Equal(p.auth, auth) {
		return nil, fmt.Errorf("%w: place %d", keys.ErrAnchorLost, place)
	}
	return p, nil
}

func (m *memory) Read(_ context.Context, place uint32, auth []byte) ([]byte, error) {
	p, err := m.find(place, auth)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(p.data), nil
}

func (m *memory) Make(_ context.Context, place uint32, auth, data []byte) error {
	// Three steps in a TPM: delete, define, write.
	if err := m.spend(); err != nil {
		return err
	}
	delete(m.places, place)
	if err := m.spend(); err != nil {
		return err
	}
	m.places[place] = &memoryPlace{auth: bytes.Clone(auth)}
	if err := m.spend(); err != nil {
		return err
	}
	m.places[place].data = bytes.Clone(data)
	return nil
}

func (m *memory) Write(_ context.Context, place uint32, auth, data []byte) error {
	p, err := m.find(place, auth)
	if err != nil {
		return err
	}
	if err := m.spend(); err != nil {
		return err
	}
	p.data = bytes.Clone(data)
	return nil
}

func (m *memory) Remove(_ context.Context, place uint32) error {
	if err := m.spend(); err != nil {
		return err
	}
	delete(m.places, place)
	return nil
}

// anchored makes a ring with a recovery slot, anchored in m.
func anchored(t *testing.T, m *memory) (ring *keys.Ring, key *keys.TierKey, p keys.Provider, paper []byte) {
	t.Helper()
	root := t.TempDir()
	p = versatile.New(filepath.Join(root, "versatile.key"))
	ring, key, err := keys.Create(t.Context(), filepath.Join(root, "vault", keys.FileName), p, "", m, keys.Format2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	paper = recovery.Generate()
	if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, paper), ""); err != nil {
		t.Fatal(err)
	}
	return ring, key, p, paper
}

// start is a start of the machine: load and unlock without a person.
func start(t *testing.T, path string, m *memory, p ...keys.Provider) (*keys.Ring, *keys.TierKey, error) {
	t.Helper()
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		return nil, nil, err
	}
	if m != nil {
		ring.Use(m)
	}
	key, _, err := ring.Unlock(t.Context(), p...)
	if err == nil {
		t.Cleanup(func() { _ = key.Close() })
	}
	return ring, key, err
}

func putBack(t *testing.T, path string, data []byte) {
	t.Helper()
	for _, name := range []string{path, path + ".bak"} {
		write(t, name, data)
	}
}

// Each verb that writes the ring, cut short at each write to the anchor and each to the
// disk: the next start opens without a person, and what was the ring before is refused
// once the verb is through.
func TestAnchorOutlivesPowerCuts(t *testing.T) {
	type state struct {
		ring *keys.Ring
		key  *keys.TierKey
		p    keys.Provider

		anchor keys.Anchor
	}
	for name, verb := range map[string]func(t *testing.T, s state) error{
		"enroll": func(t *testing.T, s state) error { _, err := s.ring.Enroll(t.Context(), s.key, s.p, ""); return err },
		"twice": func(t *testing.T, s state) error {
			_, err := s.ring.Enroll(t.Context(), s.key, s.p, "")
			if err == nil {
				_, err = s.ring.Enroll(t.Context(), s.key, s.p, "")
			}
			return err
		},
		"rotate": func(t *testing.T, s state) error {
			slots := s.ring.Slots()
			_, err := s.ring.Rotate(t.Context(), s.key, keys.Rotation{Carry: map[string]keys.Provider{slots[0].ID: s.p}, Drop: []string{slots[1].ID}})
			return err
		},
		"reanchor": func(t *testing.T, s state) error { return s.ring.Reanchor(t.Context(), s.key) },
		"restore": func(t *testing.T, s state) error {
			again, err := keys.ReadBackup(backup(t, s.ring), s.ring.Path(), nil)
			if err != nil {
				return err
			}
			again.Use(s.anchor)
			return again.Restore(t.Context(), s.key, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			steps := 0
			for done := false; !done; steps++ {
				m := newMemory()
				ring, key, p, _ := anchored(t, m)
				before := read(t, ring.Path())
				m.left = steps
				err := verb(t, state{ring, key, p, m})
				done = m.left > 0 // the power outlasted the verb
				m.left = -1
				if done && err != nil {
					t.Fatal(err)
				}
				again, _, err := start(t, ring.Path(), m, p)
				if err != nil {
					t.Fatalf("cut at write %d: %v", steps, err)
				}
				if !again.Anchored() {
					t.Fatalf("cut at write %d: not anchored any more", steps)
				}
				if done && !bytes.Equal(before, read(t, ring.Path())) {
					putBack(t, ring.Path(), before)
					if _, _, err := start(t, ring.Path(), m, p); !errors.Is(err, keys.ErrOlderRing) && !errors.Is(err, keys.ErrAnchorLost) {
						t.Fatalf("the ring of before is taken: %v", err)
					}
				}
			}
			t.Logf("%d cuts", steps)
		})
	}
}

// The first ring, and the first anchor of a ring that had none.
func TestFirstAnchorOutlivesPowerCuts(t *testing.T) {
	for steps := 0; ; steps++ {
		root := t.TempDir()
		path, p := filepath.Join(root, "vault", keys.FileName), versatile.New(filepath.Join(root, "versatile.key"))
		m := newMemory()
		m.left = steps
		_, key, err := keys.Create(t.Context(), path, p, "", m, keys.Format2, nil)
		if err != nil {
			t.Fatalf("a TPM that fails must not keep a vault from being made: %v", err)
		}
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
		done := m.left > 0
		m.left = -1
		if _, _, err := start(t, path, m, p); err != nil {
			t.Fatalf("cut at write %d: %v", steps, err)
		}
		if done {
			break
		}
	}
	for steps := 0; ; steps++ {
		ring, key, p := vault(t)
		before := read(t, ring.Path())
		m := newMemory()
		m.left = steps
		ring.Use(m)
		if _, err := ring.Enroll(t.Context(), key, p, ""); err != nil {
			t.Fatal(err)
		}
		done := m.left > 0
		m.left = -1
		if _, _, err := start(t, ring.Path(), m, p); err != nil {
			t.Fatalf("cut at write %d: %v", steps, err)
		}
		if done {
			putBack(t, ring.Path(), before)
			if _, _, err := start(t, ring.Path(), m, p); !errors.Is(err, keys.ErrOlderRing) {
				t.Fatalf("the ring without an anchor is taken: %v", err)
			}
			return
		}
	}
}

// A ring whose disk write was cut short while the anchor was made ready opens as well.
func TestAnchorBegunWithoutARing(t *testing.T) {
	m := newMemory()
	ring, key, p, _ := anchored(t, m)
	stop := errors.New("stop")
	for _, at := range []string{"write keyring.json", "write keyring.json.bak"} {
		_, err := ring.Rotate(t.Context(), key, keys.Rotation{
			Carry: map[string]keys.Provider{ring.Slots()[0].ID: p}, Drop: []string{ring.Slots()[1].ID},
			Checkpoint: func(step string) error {
				if step == at {
					return stop
				}
				return nil
			},
		})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if _, _, err := start(t, ring.Path(), m, p); err != nil {
			t.Fatalf("stopped at %q: %v", at, err)
		}
		if len(m.places) != 1 {
			t.Fatalf("stopped at %q: %d places are left", at, len(m.places))
		}
	}
}

// What may be done to a ring and its anchor, and that a recovery key, and with it the
// person, has the last word.
func TestAnchorRefuses(t *testing.T) {
	note := func(m *memory) *memoryPlace {
		for _, p := range m.places {
			return p
		}
		return nil
	}
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, m *memory, path string, old []byte)
		want  error
	}{
		"older ring":   {func(t *testing.T, _ *memory, path string, old []byte) { putBack(t, path, old) }, keys.ErrOlderRing},
		"place gone":   {func(_ *testing.T, m *memory, _ string, _ []byte) { clear(m.places) }, keys.ErrAnchorLost},
		"place anew":   {func(_ *testing.T, m *memory, _ string, _ []byte) { note(m).auth = []byte("mine") }, keys.ErrAnchorLost},
		"note edited":  {func(_ *testing.T, m *memory, _ string, _ []byte) { note(m).data[20]++ }, keys.ErrAnchorLost},
		"note emptied": {func(_ *testing.T, m *memory, _ string, _ []byte) { note(m).data = nil }, keys.ErrAnchorLost},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			ring, key, p, paper := anchored(t, m)
			old := read(t, ring.Path())
			for range 2 {
				if _, err := ring.Enroll(t.Context(), key, p, ""); err != nil {
					t.Fatal(err)
				}
			}
			tc.spoil(t, m, ring.Path(), old)
			if _, _, err := start(t, ring.Path(), m, p); !errors.Is(err, tc.want) || !errors.Is(err, keys.ErrLocked) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			loaded, _, err := start(t, ring.Path(), m, p, recovery.Typed(paper))
			if err != nil {
				t.Fatalf("with the recovery key: %v", err)
			}
			for _, s := range loaded.Probe(t.Context(), p)[:1] {
				if s.State != keys.StateFails {
					t.Errorf("probed as %q", s.State)
				}
			}
			if err := loaded.Reanchor(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if _, _, err := start(t, ring.Path(), m, p); err != nil {
				t.Fatalf("after recovery: %v", err)
			}
			// The control: without an anchor the older ring is taken.
			if name == "older ring" {
				ring, key, p := vault(t)
				old := read(t, ring.Path())
				for range 2 {
					if _, err := ring.Enroll(t.Context(), key, p, ""); err != nil {
						t.Fatal(err)
					}
				}
				putBack(t, ring.Path(), old)
				if _, _, err := start(t, ring.Path(), nil, p); err != nil {
					t.Fatalf("control: %v", err)
				}
			}
		})
	}
}

// Where the anchor is not (another machine, a dead TPM) only a person opens the ring, and
// then it goes without.
func TestAnchorIsElsewhere(t *testing.T) {
	m := newMemory()
	ring, _, p, paper := anchored(t, m)
	if _, _, err := start(t, ring.Path(), nil, p); !errors.Is(err, keys.ErrAnchorLost) {
		t.Fatalf("got %v", err)
	}
	again, key, err := start(t, ring.Path(), nil, recovery.Typed(paper))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Reanchor(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	again, _, err = start(t, ring.Path(), nil, p)
	if err != nil || again.Anchored() {
		t.Fatalf("anchored %v, %v", again.Anchored(), err)
	}
	// Back at the first machine that is an older ring.
	if _, _, err := start(t, ring.Path(), m, p); !errors.Is(err, keys.ErrOlderRing) {
		t.Fatalf("got %v", err)
	}
}

// Another ring than the one that is remembered, of another key, is refused; and where the
// ring is missing no new one is made.
func TestAnotherRingThanTheAnchors(t *testing.T) {
	m := newMemory()
	anchored(t, m)
	ring, _, p := vault(t)
	if _, _, err := start(t, ring.Path(), m, p); !errors.Is(err, keys.ErrOtherRing) {
		t.Fatalf("got %v", err)
	}
	if _, _, err := start(t, ring.Path(), nil, p); err != nil {
		t.Fatalf("control: %v", err)
	}
	own := newMemory()
	ring, _, p, _ = anchored(t, own) // with an anchor of its own
	if _, _, err := start(t, ring.Path(), m, p); !errors.Is(err, keys.ErrAnchorLost) {
		t.Fatalf("got %v", err)
	}
	root := t.TempDir()
	p = versatile.New(filepath.Join(root, "versatile.key"))
	if _, _, err := keys.Create(t.Context(), filepath.Join(root, "vault", keys.FileName), p, "", m, keys.Format2, nil); !errors.Is(err, keys.ErrRingLost) {
		t.Fatalf("made another ring: %v", err)
	}
}

// A process that loaded the ring before another one wrote it takes what is there now.
func TestUnlockFollowsAnotherWriter(t *testing.T) {
	m := newMemory()
	ring, key, p, _ := anchored(t, m)
	stale, err := keys.Load(t.Context(), ring.Path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stale.Use(m)
	for range 2 {
		if _, err := ring.Enroll(t.Context(), key, p, ""); err != nil {
			t.Fatal(err)
		}
	}
	again, _, err := stale.Unlock(t.Context(), p)
	if err != nil || len(stale.Slots()) != 4 {
		t.Fatalf("%d slots, %v", len(stale.Slots()), err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
