package unlock

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/versatile"
)

func source(t *testing.T) (Config, *Source, *keys.Ring) {
	t.Helper()
	cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "versatile", Set: keys.Values{"tpm": "/nonexistent"}}
	key, ring, err := OpenOrCreate(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSource(cfg, key)
	t.Cleanup(func() { _ = s.Close() })
	return cfg, s, ring
}

func rotate(t *testing.T, cfg Config, ring *keys.Ring) {
	t.Helper()
	key, _, _, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	p, err := cfg.ForNewSlot(t.Context(), "versatile")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Carry: map[string]keys.Provider{ring.Slots()[0].ID: p}}); err != nil {
		t.Fatal(err)
	}
}

func passphrase(t *testing.T, s *Source) []byte {
	t.Helper()
	p, err := s.Passphrase(1, "layer", "id", "uuid")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSourceFollowsARotation(t *testing.T) {
	cfg, s, ring := source(t)
	before := passphrase(t, s)
	if !bytes.Equal(before, passphrase(t, s)) {
		t.Fatal("another passphrase without a reason")
	}
	rotate(t, cfg, ring)
	after := passphrase(t, s)
	if bytes.Equal(before, after) {
		t.Fatal("still the old key")
	}
	if want, _ := open(t, cfg); !bytes.Equal(after, want) {
		t.Fatal("neither the old key nor the new one")
	}
	// A ring that went away does not take the key from those who have it.
	for _, name := range []string{ring.Path(), ring.Path() + ".bak"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(after, passphrase(t, s)) {
		t.Fatal("lost the key with the ring")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Passphrase(1, "layer", "id", "uuid"); !errors.Is(err, keys.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

// No image may be made with a key that was rotated away, also when the new one cannot
// be had.
func TestSourceRefusesARotatedKey(t *testing.T) {
	cfg, s, ring := source(t)
	rotate(t, cfg, ring)
	keyFile := versatile.Path(cfg.Tier, "")
	if err := os.Rename(keyFile, keyFile+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Passphrase(1, "layer", "id", "uuid"); !errors.Is(err, keys.ErrLocked) {
		t.Fatalf("got %v", err)
	}
	if err := os.Rename(keyFile+".away", keyFile); err != nil {
		t.Fatal(err)
	}
	want, _ := open(t, cfg)
	if !bytes.Equal(want, passphrase(t, s)) {
		t.Fatal("did not recover")
	}
}

// Records are authenticated by the key that the ring holds now, and a floor that was once
// proved stays.
func TestSourceAuthenticates(t *testing.T) {
	cfg, s, ring := source(t)
	before, err := s.MAC("layer", []byte("record"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Floor(); got != ring.Floor() {
		t.Errorf("floor %d, the ring has %d", got, ring.Floor())
	}
	rotate(t, cfg, ring)
	after, err := s.MAC("layer", []byte("record"))
	if err != nil || bytes.Equal(before, after) {
		t.Errorf("still the old key (%v)", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MAC("layer", nil); !errors.Is(err, keys.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	// Without a ring nothing old is believed.
	_, s, ring = source(t)
	for _, name := range []string{ring.Path(), ring.Path() + ".bak"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Floor(); got != 2 {
		t.Errorf("floor %d without a ring", got)
	}
}
