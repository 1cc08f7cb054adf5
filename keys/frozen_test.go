package keys_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/versatile"
)

// A ring that an earlier version wrote opens by each of its slots, for ever.
func TestFrozenRingsOpen(t *testing.T) {
	for _, frozen := range []string{"testdata/format1", "testdata/format2"} {
		t.Run(frozen, func(t *testing.T) { opensFrozen(t, frozen) })
	}
}

func opensFrozen(t *testing.T, frozen string) {
	dir := t.TempDir()
	for _, name := range []string{"keyring.json", "versatile.key"} {
		data, err := os.ReadFile(filepath.Join(frozen, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(frozen, name))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.TrimSpace(data)
	}
	ring, err := keys.Load(t.Context(), filepath.Join(dir, "keyring.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for slot, p := range []keys.Provider{
		versatile.New(filepath.Join(dir, "versatile.key")),
		recovery.Typed(line("recovery.txt")),
		recovery.Typed(line("passphrase.txt")),
	} {
		key, used, err := ring.Unlock(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if used.ID != ring.Slots()[slot].ID {
			t.Fatalf("slot %s opened, want %s", used.ID, ring.Slots()[slot].ID)
		}
		got, err := key.Passphrase(1, "layer", "0123456789abcdef", "6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, line("image-passphrase.txt")) {
			t.Fatal("the tier key gives another image passphrase")
		}
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
