package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/handover"
	"layervault/persist"
)

// A locked vault opens in the same process, once a key was handed over, or once what
// locked it is gone: no restart either way.
func TestLockedStart(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 0)
	want, _ := openKey(t, dir)
	tier, file := filepath.Join(dir, "vault"), filepath.Join(dir, "versatile.key")
	a := quietApp(dir)
	person := handover.New(tier, a.ringLog())
	defer person.Close()
	opens := func(when string) {
		t.Helper()
		source, err := a.openTier(t.Context(), persist.Vault, settings{key: "versatile"}, person, a.ringLog())
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
			if _, err := a.openTier(t.Context(), persist.Vault, settings{key: "versatile"}, person, a.ringLog()); !errors.Is(err, keys.ErrLocked) {
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
