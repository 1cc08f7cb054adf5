//go:build guest

package luks2_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/crypt/luks2"
)

// These tests need device-mapper. DM_DISABLE_UDEV makes libdevmapper create the nodes
// in /dev/mapper itself.

const mapped = "luks2-test"

// withOpen opens the image with stock cryptsetup and a volume key of ours, and runs do on
// the plaintext device.
func withOpen(t *testing.T, image string, key []byte, do func(dev *os.File)) {
	t.Helper()
	keyFile := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(keyFile, key, 0o600))
	mustCryptsetup(t, "open", "--type", "luks2", "--volume-key-file", keyFile, image, mapped)
	defer mustCryptsetup(t, "close", mapped)
	dev, err := os.OpenFile("/dev/mapper/"+mapped, os.O_RDWR, 0)
	must(t, err)
	defer dev.Close()
	do(dev)
	must(t, dev.Sync())
}

// TestKernelAgreesOnTheCipher writes through the kernel with our volume key, for every
// data cipher and sector size. Then stock cryptsetup re-encrypts the image (in 4096 byte
// sectors only: eight times fewer, and the guest is slow), and what Unlock gives must
// open the data.
func TestKernelAgreesOnTheCipher(t *testing.T) {
	t.Setenv("DM_DISABLE_UDEV", "1")
	for _, p := range formats() {
		f := newImage(t)
		_, key := mustFormat(t, f, p)
		want := make([]byte, 1<<20)
		rand.Read(want)
		withOpen(t, f.Name(), key, func(dev *os.File) {
			if _, err := dev.WriteAt(want, 4096); err != nil {
				t.Fatal(err)
			}
		})
		if p.SectorSize != 4096 {
			withOpen(t, f.Name(), key, func(dev *os.File) { wantData(t, p, dev, want) })
			continue
		}
		mustCryptsetup(t, append([]string{"reencrypt", "--force-offline-reencrypt", f.Name()}, quick...)...)
		newKey, _, err := mustRead(t, f).Unlock(f, secret)
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		if bytes.Equal(newKey, key) {
			t.Errorf("%+v: the volume key is still the old one", p)
		}
		withOpen(t, f.Name(), newKey, func(dev *os.File) { wantData(t, p, dev, want) })
	}
}

func wantData(t *testing.T, p luks2.Params, dev *os.File, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := dev.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%+v: the data is not what it was: %v", p, err)
	}
}

// TestAdiantumKeySlot opens an image whose key slot cryptsetup encrypted with Adiantum,
// which it can only do through device-mapper.
func TestAdiantumKeySlot(t *testing.T) {
	t.Setenv("DM_DISABLE_UDEV", "1")
	for _, c := range []string{"xchacha12,aes-adiantum-plain64", "xchacha20,aes-adiantum-plain64"} {
		f := luksFormat(t, append([]string{"--cipher", c, "--key-size", "256"}, quick...)...)
		h := mustRead(t, f)
		if got := h.Slots()[0].Cipher; got != c {
			t.Fatalf("key slot is encrypted with %q", got)
		}
		key, _, err := h.Unlock(f, secret)
		must(t, err)
		wantVolumeKey(t, f, key)
		if _, _, err := h.Unlock(f, []byte("wrong")); !errors.Is(err, luks2.ErrNoKey) {
			t.Errorf("wrong passphrase: %v", err)
		}
	}
}
