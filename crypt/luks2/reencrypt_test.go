package luks2_test

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"errors"
	"os"
	"testing"

	"golang.org/x/crypto/xts"

	"layervault/crypt/luks2"
)

// sealData writes random data through the volume key into the whole data area, as
// dm-crypt would with aes-xts-plain64, and gives the plaintext.
func sealData(t *testing.T, f *os.File, key []byte) []byte {
	t.Helper()
	plain := make([]byte, 3<<20)
	rand.Read(plain)
	sealed := bytes.Clone(plain)
	eachSector(t, f, key, sealed, (*xts.Cipher).Encrypt)
	if _, err := f.WriteAt(sealed, mustRead(t, f).Segment().Offset); err != nil {
		t.Fatal(err)
	}
	return plain
}

func openData(t *testing.T, f *os.File, key []byte) []byte {
	t.Helper()
	data := make([]byte, 3<<20)
	if _, err := f.ReadAt(data, mustRead(t, f).Segment().Offset); err != nil {
		t.Fatal(err)
	}
	eachSector(t, f, key, data, (*xts.Cipher).Decrypt)
	return data
}

func eachSector(t *testing.T, f *os.File, key, data []byte, do func(c *xts.Cipher, dst, src []byte, n uint64)) {
	t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	size := mustRead(t, f).Segment().SectorSize
	for i := 0; i < len(data); i += size {
		do(c, data[i:i+size], data[i:i+size], uint64(i/512)) // IVs count in 512 byte units
	}
}

// TestReencrypt lets stock cryptsetup give our image a new volume key. It needs room
// for a second key slot and for its own log in the key slots area. Half way the
// image carries a requirement that we must refuse.
func TestReencrypt(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		f := newImage(t)
		h, key := mustFormat(t, f, luks2.Params{SectorSize: sector})
		plain := sealData(t, f, key)
		mustCryptsetup(t, append([]string{"reencrypt", "--init-only", f.Name()}, quick...)...)

		half := mustRead(t, f)
		if got := half.Requirements(); len(got) != 1 {
			t.Errorf("requirements %q", got)
		}
		var unsupported *luks2.UnsupportedError
		if _, _, err := half.Unlock(f, secret); !errors.As(err, &unsupported) || !errors.Is(err, luks2.ErrUnsupported) {
			t.Errorf("Unlock during reencryption: %v", err)
		}
		if _, err := half.AddSlot(f, key, secret, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrUnsupported) {
			t.Errorf("AddSlot during reencryption: %v", err)
		}
		if err := half.RemoveSlot(f, 0); !errors.Is(err, luks2.ErrUnsupported) {
			t.Errorf("RemoveSlot during reencryption: %v", err)
		}

		mustCryptsetup(t, "reencrypt", "--resume-only", "--force-offline-reencrypt", f.Name())
		newKey, _, err := mustRead(t, f).Unlock(f, secret)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(newKey, key) {
			t.Error("the volume key is still the old one")
		}
		if !bytes.Equal(openData(t, f, newKey), plain) {
			t.Error("the data is not what it was")
		}
		if id := mustRead(t, f).UUID(); id != h.UUID() {
			t.Errorf("UUID %s became %s", h.UUID(), id)
		}
	}
}

// TestReencryptCryptsetups is the other way round: cryptsetup formats and re-encrypts,
// we change slots in between and afterwards.
func TestReencryptCryptsetups(t *testing.T) {
	f := luksFormat(t, append([]string{"--sector-size", "4096"}, quick...)...)
	h := mustRead(t, f)
	key, slot, err := h.Unlock(f, secret)
	must(t, err)
	plain := sealData(t, f, key)
	_, err = h.AddSlot(f, key, []byte("ours"), luks2.RandomKeyKDF())
	must(t, err)
	must(t, h.RemoveSlot(f, slot))
	_, err = h.AddSlot(f, key, secret, luks2.RandomKeyKDF())
	must(t, err)
	must(t, h.RemoveSlot(f, 1))
	mustCryptsetup(t, append([]string{"reencrypt", "--force-offline-reencrypt", f.Name()}, quick...)...)
	h = mustRead(t, f)
	newKey, _, err := h.Unlock(f, secret)
	must(t, err)
	if !bytes.Equal(openData(t, f, newKey), plain) {
		t.Error("the data is not what it was")
	}
	_, err = h.AddSlot(f, newKey, []byte("after"), luks2.RandomKeyKDF())
	must(t, err)
	if _, err := h.AddSlot(f, key, []byte("old key"), luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrWrongVolumeKey) {
		t.Errorf("adding a slot with the old volume key: %v", err)
	}
}
