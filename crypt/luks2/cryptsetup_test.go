package luks2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"layervault/crypt/luks2"
)

// fastArgon is argon2id at the least cryptsetup accepts: tests are about the format.
var fastArgon = luks2.KDF{Type: luks2.KDFArgon2id, Iterations: 4, MemoryKiB: 64, Parallelism: 2}

var secret = []byte("correct horse")

// cryptsetup runs the stock command; the secret goes in as a key file on stdin.
func cryptsetup(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("cryptsetup", append([]string{"--batch-mode", "--key-file", "-"}, args...)...)
	cmd.Stdin = bytes.NewReader(secret)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("cryptsetup %q: %w: %s", args, err, out)
	}
	return string(out), err
}

func mustCryptsetup(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cryptsetup(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newImage gives an open, sparse file of 4 MiB.
func newImage(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "image.luks"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

func mustRead(t *testing.T, r io.ReaderAt) *luks2.Header {
	t.Helper()
	h, err := luks2.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustFormat(t *testing.T, f luks2.File, p luks2.Params) (*luks2.Header, []byte) {
	t.Helper()
	h, key, err := luks2.Format(f, p, luks2.RandomKeyKDF(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return h, key
}

// formats are all combinations of data cipher, key size and sector size.
func formats() []luks2.Params {
	var all []luks2.Params
	for _, sector := range []int{512, 4096} {
		for _, c := range []luks2.Params{
			{Cipher: luks2.CipherXTS, KeySize: 64},
			{Cipher: luks2.CipherXTS, KeySize: 32},
			{Cipher: luks2.CipherESSIV, KeySize: 32},
			{Cipher: luks2.CipherAdiantum, KeySize: 32},
		} {
			c.SectorSize = sector
			all = append(all, c)
		}
	}
	return all
}

func TestCryptsetupOpensOurs(t *testing.T) {
	for _, p := range formats() {
		for _, kdf := range []luks2.KDF{luks2.RandomKeyKDF(), {Type: luks2.KDFPBKDF2, Hash: "sha512", Iterations: 1000}, fastArgon} {
			t.Run(fmt.Sprintf("%s/%d/%d/%s%s", p.Cipher, p.KeySize, p.SectorSize, kdf.Type, kdf.Hash), func(t *testing.T) {
				f := newImage(t)
				_, key, err := luks2.Format(f, p, kdf, secret)
				if err != nil {
					t.Fatal(err)
				}
				mustCryptsetup(t, "open", "--test-passphrase", f.Name())
				dump := mustCryptsetup(t, "luksDump", "--dump-volume-key", "--volume-key-file", f.Name()+".key", f.Name())
				got, err := os.ReadFile(f.Name() + ".key")
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, key) {
					t.Errorf("cryptsetup found another volume key:\n%s", dump)
				}
				ours, slot, err := mustRead(t, f).Unlock(f, secret)
				if err != nil || slot != 0 || !bytes.Equal(ours, key) {
					t.Errorf("Unlock: slot %d, %v", slot, err)
				}
				if _, _, err := mustRead(t, f).Unlock(f, []byte("wrong")); !errors.Is(err, luks2.ErrNoKey) {
					t.Errorf("wrong passphrase: %v", err)
				}
			})
		}
	}
}

func TestErase(t *testing.T) {
	f := newImage(t)
	mustFormat(t, f, luks2.Params{})
	if err := luks2.Erase(f); err != nil {
		t.Fatal(err)
	}
	if _, _, err := mustRead(t, f).Unlock(f, secret); !errors.Is(err, luks2.ErrNoKey) {
		t.Fatal(err)
	}
	if _, err := cryptsetup(t, "open", "--test-passphrase", f.Name()); err == nil {
		t.Fatal("cryptsetup opens an erased image")
	}
	mustCryptsetup(t, "luksDump", f.Name()) // still well-formed
}
