package vault_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/keys"
	"layervault/keys/handover"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
)

// A locked vault opens in the same process, once a key was handed over, or once what
// locked it is gone: no restart either way.
func TestLockedStart(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 0)
	want, _ := vaulttest.Open(t, dir)
	tier, file := filepath.Join(dir, "vault"), filepath.Join(dir, "versatile.key")
	cfg := vaulttest.Config(dir)
	cfg.Person = handover.New(tier, quiet)
	defer cfg.Person.Close()
	v := vault.New(cfg)
	opens := func(when string) {
		t.Helper()
		source, err := v.Unlock(t.Context(), persist.Vault)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		got, err := source.Passphrase(1, "layer", "id", "uuid")
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		expected, err := want.Passphrase(1, "layer", "id", "uuid")
		if err != nil || !bytes.Equal(got, expected) {
			t.Fatalf("%s: another key, %v", when, err)
		}
		if err := source.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(tier, handover.Name)); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s: still waits for a key: %v", when, err)
		}
	}
	locked := func() {
		t.Helper()
		for range 2 {
			if _, err := v.Unlock(t.Context(), persist.Vault); !errors.Is(err, keys.ErrLocked) {
				t.Fatalf("got %v", err)
			}
		}
	}
	opens("at first")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	locked()
	if err := handover.Give(t.Context(), tier, want); err != nil {
		t.Fatal(err)
	}
	opens("handed over")
	locked()
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	opens("the key file is back")
}

// A user of the tier's key for volumes keeps a rotation off, and the other way round.
func TestRotateWaitsForVolumes(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 0)
	c := vaulttest.Contents(dir)
	unlock, err := c.Share()
	must(t, err)
	second, err := c.Share()
	must(t, err)
	if _, err := c.Lock(); !errors.Is(err, layer.ErrBusy) {
		t.Errorf("rotates beside volumes: %v", err)
	}
	must(t, errors.Join(unlock(), second()))
	release, err := c.Lock()
	must(t, err)
	if _, err := c.Share(); !errors.Is(err, layer.ErrBusy) {
		t.Errorf("used beside a rotation: %v", err)
	}
	must(t, release())
}

// A process opens each tier once, and lets go of all.
func TestTiers(t *testing.T) {
	dir := vaulttest.Dir(t)
	v := vault.New(vaulttest.Config(dir))
	for _, tier := range vault.SealedTiers {
		first, err := v.KeysOf(t.Context(), tier)
		must(t, err)
		if again, err := v.KeysOf(t.Context(), tier); err != nil || again != first {
			t.Errorf("%s: opened twice, %v", tier, err)
		}
		if _, err := os.Stat(persist.Layout{Root: dir}.KeyRing(tier)); err != nil {
			t.Error(err)
		}
	}
	if _, err := v.KeysOf(t.Context(), persist.Clear); err == nil {
		t.Error("the clear tier has a key")
	}
	d, err := v.Borrow(t.Context())
	must(t, err)
	if _, err := d.Passphrase(1, "layer", "a", "b"); err != nil {
		t.Error(err)
	}
	if slots := d.(vault.Borrowed).SlotSummaries(); len(slots) != 1 || !strings.Contains(slots[0], "versatile (software only)") {
		t.Errorf("slots %q", slots)
	}
	unsealed := v.Contents(persist.Unsealed)
	if _, err := unsealed.Lock(); !errors.Is(err, layer.ErrBusy) {
		t.Errorf("rotates beside its user: %v", err)
	}
	must(t, v.Close())
	release, err := unsealed.Lock()
	must(t, err)
	must(t, release())
	if _, err := d.Passphrase(1, "layer", "a", "b"); !errors.Is(err, keys.ErrClosed) {
		t.Errorf("after closing: %v", err)
	}
}
