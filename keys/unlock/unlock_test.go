package unlock

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/tpm/swtpmtest"
	"layervault/keys/versatile"
)

func open(t *testing.T, cfg Config) ([]byte, *keys.Ring) {
	t.Helper()
	key, ring, err := OpenOrCreate(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	p, err := key.Passphrase(1, "layer", "id", "uuid")
	if err != nil {
		t.Fatal(err)
	}
	return p, ring
}

// The life of a vault: made with the TPM, locked by an update, recovered, sealed anew.
func TestTPMVault(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", Set: keys.Values{"tpm": chip.Socket}}
	want, ring := open(t, cfg)

	key, _, _, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	typed := recovery.Generate()
	if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, typed), ""); err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	chip.Extend(4, "new boot loader")
	_, ring, err = OpenOrCreate(t.Context(), cfg)
	if !errors.Is(err, keys.ErrLocked) || len(keys.ChangedPCRs(err)) != 1 || keys.ChangedPCRs(err)[0].Index != 4 {
		t.Fatalf("got %v", err)
	}
	if ring == nil {
		t.Fatal("a locked ring is needed for status")
	}
	recover := cfg
	recover.Recovery = typed
	key, ring, slot, err := Open(t.Context(), recover)
	if err != nil || slot.Provider != recovery.Name {
		t.Fatalf("slot %v, %v", slot, err)
	}
	chipProvider, err := cfg.ForNewSlot(t.Context(), "tpm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Reseal(t.Context(), key, ring.Slots()[0].ID, chipProvider); err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := open(t, cfg); !bytes.Equal(got, want) {
		t.Fatal("another key after recovery")
	}
}

// A failed re-seal (here: the TPM is gone) leaves the old slot as it was.
func TestFailedResealChangesNothing(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", Set: keys.Values{"tpm": chip.Socket}}
	_, ring := open(t, cfg)
	before, err := os.ReadFile(ring.Path())
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	gone := cfg
	gone.Set = keys.Values{"tpm": "/nonexistent"}
	p, err := gone.ForNewSlot(t.Context(), "tpm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Reseal(t.Context(), key, ring.Slots()[0].ID, p); !errors.Is(err, tpm.ErrNoTPM) {
		t.Fatalf("got %v", err)
	}
	after, err := os.ReadFile(ring.Path())
	if err != nil || !bytes.Equal(before, after) {
		t.Fatal("the ring changed")
	}
}

func TestSettings(t *testing.T) {
	tier := filepath.Join(t.TempDir(), "vault")
	for name, tc := range map[string]struct {
		cfg  Config
		want error
	}{
		"no provider":      {Config{}, keys.ErrNoProvider},
		"unknown provider": {Config{Provider: "magic"}, keys.ErrUnknownProvider},
		"recovery first":   {Config{Provider: "recovery"}, keys.ErrUnknownProvider},
		"no TPM":           {Config{Provider: "tpm", Set: keys.Values{"tpm": "/nonexistent"}}, tpm.ErrNoTPM},
		"key file inside":  {Config{Provider: "versatile", Set: keys.Values{"key-file": tier + "/sub/key"}}, versatile.ErrBadKeyFile},
	} {
		t.Run(name, func(t *testing.T) {
			tc.cfg.Tier = tier
			if _, _, err := OpenOrCreate(t.Context(), tc.cfg); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if _, err := os.Stat(tc.cfg.RingPath()); err == nil {
				t.Fatal("a ring was made")
			}
		})
	}
	if err := os.MkdirAll(filepath.Join(tier, "layers", "abc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenOrCreate(t.Context(), Config{Tier: tier, Provider: "versatile"}); !errors.Is(err, keys.ErrRingLost) {
		t.Fatalf("above layers: %v", err)
	}
}

// With a ring there, no provider need be set, but for slots of software alone.
func TestOpensWithoutProvider(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", Set: keys.Values{"tpm": chip.Socket}}
	want, _ := open(t, cfg)
	cfg.Provider = ""
	if got, _ := open(t, cfg); !bytes.Equal(got, want) {
		t.Fatal("another key")
	}
}
