package trusted

import (
	"bytes"
	"crypto/aes"
	gocipher "crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

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
	got, err := key.Passphrase(1, "layer", "0123456789abcdef", "6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.TrimSpace(frozen(t, "image-passphrase.txt"))) {
		t.Errorf("the tier key gives the image passphrase %s", got)
	}
}

// What the kernel does with the fixture's slot, done by hand: the payload of an encrypted key
// (security/keys/encrypted-keys/encrypted.c) is AES-256-CBC under SHA-256 of "ENC_KEY", NUL
// and the master key, padded with zeros; with it dm-crypt has encrypted the sector.
func TestFormat1ByHand(t *testing.T) {
	ring := fixture(t)
	slot, _, _, err := parseBlob(ring.Slots()[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(slot.Sealed)
	raw, err := hex.DecodeString(words[len(words)-1])
	const ivSize = aes.BlockSize + 1 // the kernel ends it with a NUL
	if err != nil || len(raw) != ivSize+cipherXTS.key+sha256.Size {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	master := frozen(t, "master.key")
	derived := make([]byte, len("AUTH_KEY")+1+len(master)) // room for the longer of two names
	copy(derived, "ENC_KEY")
	copy(derived[len("ENC_KEY")+1:], master)
	kek := sha256.Sum256(derived)
	block, err := aes.NewCipher(kek[:])
	if err != nil {
		t.Fatal(err)
	}
	payload := raw[ivSize : ivSize+cipherXTS.key]
	gocipher.NewCBCDecrypter(block, raw[:aes.BlockSize]).CryptBlocks(payload, payload)
	disk, err := xts.NewCipher(aes.NewCipher, payload)
	if err != nil {
		t.Fatal(err)
	}
	disk.Decrypt(slot.Sector, slot.Sector, 0)
	key, err := readRecord(slot.Sector, keys.Binding{RingID: ring.ID(), SlotID: ring.Slots()[0].ID, Provider: Name})
	if err != nil {
		t.Fatal(err)
	}
	tier, err := ring.Adopt(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := tier.Close(); err != nil {
		t.Fatal(err)
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
