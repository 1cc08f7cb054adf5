package trusted

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
)

// fixture is a ring that version 1 wrote: a slot under an encrypted key (master.key), and a
// passphrase.
func fixture(t *testing.T) *keys.Ring {
	t.Helper()
	path := filepath.Join(t.TempDir(), keys.FileName)
	if err := os.WriteFile(path, frozen(t, keys.FileName), 0o600); err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func frozen(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/format1", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// opens checks that p opens the fixture, with the key that it was made with.
func opens(t *testing.T, ring *keys.Ring, p keys.Provider) {
	t.Helper()
	key, slot, err := ring.Unlock(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if slot.Provider != p.Name() {
		t.Errorf("slot %s opened", slot.Title())
	}
	got, err := key.Passphrase("layer", "0123456789abcdef", "6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.TrimSpace(frozen(t, "image-passphrase.txt"))) {
		t.Errorf("the tier key gives the image passphrase %s", got)
	}
}

// The slot is read for ever; that it opens is the guest's test, which has the kernel's keys.
func TestFormat1Reads(t *testing.T) {
	ring := fixture(t)
	slot := ring.Slots()[0]
	src, err := SourceOf(slot.Blob)
	if err != nil || src.String() != "encrypted:user:layervault-fixture" {
		t.Errorf("source %q, %v", src, err)
	}
	want := keys.Description{Software: true, Detail: "kernel encrypted key under user:layervault-fixture"}
	if d := New(Config{}).Describe(slot.Blob); d != want {
		t.Errorf("described as %+v", d)
	}
	opens(t, ring, recovery.Typed(bytes.TrimSpace(frozen(t, "passphrase.txt"))))
}
