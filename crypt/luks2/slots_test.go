package luks2_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"layervault/crypt/luks2"
)

func TestRefusedParams(t *testing.T) {
	argon := luks2.KDF{Type: luks2.KDFArgon2id, Iterations: 4, MemoryKiB: 64 << 10, Parallelism: 4}
	argon.MemoryKiB = 8 << 20
	tests := map[string]struct {
		p    luks2.Params
		kdf  luks2.KDF
		pass string
		want error // nil: any
	}{
		"empty passphrase":    {kdf: luks2.RandomKeyKDF(), want: luks2.ErrEmptyKey},
		"cipher":              {p: luks2.Params{Cipher: "aes-ecb"}, kdf: luks2.RandomKeyKDF(), pass: "x", want: luks2.ErrUnsupported},
		"key size":            {p: luks2.Params{KeySize: 48}, kdf: luks2.RandomKeyKDF(), pass: "x", want: luks2.ErrUnsupported},
		"sector size":         {p: luks2.Params{SectorSize: 1000}, kdf: luks2.RandomKeyKDF(), pass: "x", want: luks2.ErrUnsupported},
		"metadata size":       {p: luks2.Params{MetadataSize: 20 << 10}, kdf: luks2.RandomKeyKDF(), pass: "x"},
		"data offset":         {p: luks2.Params{DataOffset: 1<<20 + 512}, kdf: luks2.RandomKeyKDF(), pass: "x"},
		"data in the header":  {p: luks2.Params{DataOffset: 64 << 10}, kdf: luks2.RandomKeyKDF(), pass: "x", want: luks2.ErrNoRoom},
		"UUID":                {p: luks2.Params{UUID: "x"}, kdf: luks2.RandomKeyKDF(), pass: "x"},
		"label":               {p: luks2.Params{Label: fmt.Sprintf("%048d", 0)}, kdf: luks2.RandomKeyKDF(), pass: "x"},
		"NUL in the label":    {p: luks2.Params{Subsystem: "a\x00b"}, kdf: luks2.RandomKeyKDF(), pass: "x"},
		"no KDF":              {pass: "x", want: luks2.ErrUnsupported},
		"few iterations":      {kdf: luks2.KDF{Type: luks2.KDFPBKDF2, Hash: "sha256", Iterations: 999}, pass: "x"},
		"sha1":                {kdf: luks2.KDF{Type: luks2.KDFPBKDF2, Hash: "sha1", Iterations: 1000}, pass: "x", want: luks2.ErrUnsupported},
		"argon2i":             {kdf: luks2.KDF{Type: luks2.KDFArgon2i, Iterations: 4, MemoryKiB: 64, Parallelism: 1}, pass: "x", want: luks2.ErrUnsupported},
		"argon2id, 8 GiB":     {kdf: argon, pass: "x", want: luks2.ErrTooCostly},
		"argon2id, no memory": {kdf: luks2.KDF{Type: luks2.KDFArgon2id, Iterations: 4, MemoryKiB: 8, Parallelism: 4}, pass: "x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newImage(t)
			before := content(t, f)
			_, key, err := luks2.Format(f, tt.p, tt.kdf, []byte(tt.pass))
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if key != nil || !bytes.Equal(content(t, f), before) {
				t.Error("something was made")
			}
		})
	}
}

// TestSlotsUntilFull fills the key slots area, frees a slot in the middle and takes it again.
func TestSlotsUntilFull(t *testing.T) {
	f := newImage(t)
	h, key := mustFormat(t, f, luks2.Params{})
	for want := 1; want < 3; want++ {
		if slot, err := h.AddSlot(f, key, fmt.Appendf(nil, "%d", want), luks2.RandomKeyKDF()); err != nil || slot != want {
			t.Fatalf("slot %d, %v", slot, err)
		}
	}
	if _, err := h.AddSlot(f, key, secret, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrNoRoom) {
		t.Fatalf("fourth slot: %v", err)
	}
	must(t, h.RemoveSlot(f, 1))
	if slot, err := h.AddSlot(f, key, []byte("again"), luks2.RandomKeyKDF()); err != nil || slot != 1 {
		t.Fatalf("slot %d, %v", slot, err)
	}
	mustCryptsetup(t, "open", "--test-passphrase", f.Name())
	if got, slot, err := mustRead(t, f).Unlock(f, []byte("again")); err != nil || slot != 1 || !bytes.Equal(got, key) {
		t.Errorf("slot %d, %v", slot, err)
	}
	if _, _, err := h.Unlock(f, []byte("1")); !errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("the removed passphrase: %v", err)
	}
	must(t, h.RemoveSlot(f, 0))
	must(t, h.RemoveSlot(f, 1))
	if err := h.RemoveSlot(f, 2); !errors.Is(err, luks2.ErrLastSlot) {
		t.Errorf("last slot: %v", err)
	}
	if err := h.RemoveSlot(f, 7); !errors.Is(err, luks2.ErrNoSlot) {
		t.Errorf("slot 7: %v", err)
	}
}
