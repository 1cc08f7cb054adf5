//go:build guest

package trusted

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"layervault/crypt/dm"
	"layervault/keys"
)

// sh runs a script with bash and returns what it printed.
func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func source(t *testing.T, s string) *Provider {
	t.Helper()
	src, err := ParseSource(s)
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Source: src})
}

// newRing makes a ring with one slot of p and returns the path and the key.
func newRing(t *testing.T, p *Provider) (path string, key []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "vault", keys.FileName)
	_, tier, err := keys.Create(t.Context(), path, p, "", nil, keys.Format2, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tier.Close()
	if err := tier.Lend(func(raw []byte) error { key = bytes.Clone(raw); return nil }); err != nil {
		t.Fatal(err)
	}
	return path, key
}

// unlock opens the ring anew.
func unlock(t *testing.T, path string) (key []byte, err error) {
	t.Helper()
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	tier, _, err := ring.Unlock(t.Context(), New(Config{}))
	if err != nil {
		return nil, err
	}
	err = tier.Lend(func(raw []byte) error { key = bytes.Clone(raw); return nil })
	return key, errors.Join(err, tier.Close())
}

// life takes a ring through what every source must do: it opens, twice and at once, leaves
// nothing behind, and shows its key nowhere.
func life(t *testing.T, p *Provider) (path string) {
	t.Helper()
	before := leftovers(t)
	path, key := newRing(t, p)
	done := make(chan error)
	const openers = 8
	for range openers {
		go func() {
			got, err := unlock(t, path)
			if err == nil && !bytes.Equal(got, key) {
				err = errors.New("another key")
			}
			done <- err
		}()
	}
	for range openers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if after := leftovers(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	ring, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(ring, key) {
		t.Error("the ring holds its key")
	}
	return path
}

// leftovers is what a slot might leave in the kernel.
func leftovers(t *testing.T) string {
	t.Helper()
	return sh(t, `dmsetup ls; losetup --list --noheadings; grep layervault /proc/keys || true`)
}

// shown is what dmsetup tells of the device while it holds the key.
func shown(t *testing.T, p *Provider) {
	t.Helper()
	err := onThread(func() error {
		c := p.source.ciphers()[0]
		_, err := withKey(p.source, newPayload(p.source, c), func(key dm.KeyRef) error {
			return withDevice(t.Context(), c, named(key), func(device, _ *os.File) error {
				table := sh(t, `dmsetup table --showkeys --target crypt`)
				want := ":64:" + p.source.keyType() + ":" + description
				if !strings.Contains(table, want) || !strings.Contains(table, devicePrefix) {
					t.Errorf("the table is %q, want %s in it", table, want)
				}
				return nil
			})
		})
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Encrypted keys: every kernel of Debian has them, and they take the same way.
func TestEncryptedKeys(t *testing.T) {
	sh(t, `head -c 32 /dev/urandom | keyctl padd user layervault-test @u >/dev/null`)
	t.Cleanup(func() { _ = exec.Command("keyctl", "purge", "user", "layervault-test").Run() })
	p := source(t, "encrypted:user:layervault-test")
	if err := Available(p.source); err != nil {
		t.Fatal(err)
	}
	path := life(t, p)
	shown(t, p)
	d := p.Describe(slotOf(t, path))
	if !d.Software || !strings.Contains(d.Detail, "user:layervault-test") {
		t.Errorf("described as %+v", d)
	}

	sh(t, `head -c 32 /dev/urandom | keyctl padd user layervault-test @u >/dev/null`)
	if _, err := unlock(t, path); !errors.Is(err, ErrOtherChip) {
		t.Errorf("with another master key: %v", err)
	}
	sh(t, `keyctl purge user layervault-test >/dev/null`)
	if _, err := unlock(t, path); !errors.Is(err, ErrOtherChip) || !strings.Contains(err.Error(), "master key user:layervault-test is not in") {
		t.Errorf("without the master key: %v", err)
	}
	if _, err := p.Wrap(t.Context(), keys.Binding{}, make([]byte, keys.KeySize)); !errors.Is(err, ErrOtherChip) {
		t.Errorf("a new slot without the master key: %v", err)
	}
}

// Debian's kernel has no trusted keys, and no i.MX: it is said, with what to do.
func TestEncryptedOnlyKernel(t *testing.T) {
	for name, words := range map[string]string{"tpm": "no tpm found", "caam": "no caam found", "dcp": "CONFIG_TRUSTED_KEYS", "tee": "CONFIG_TRUSTED_KEYS", "tagged": taggedDevice} {
		p := source(t, name)
		if err := Available(p.source); !errors.Is(err, ErrNoTrusted) {
			t.Errorf("%s is available: %v", name, err)
		}
		_, err := p.Wrap(t.Context(), keys.Binding{}, make([]byte, keys.KeySize))
		if !errors.Is(err, ErrNoTrusted) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Trusted keys of a TPM, with modules built from Debian's source (tests/guest/modules).
func TestTrustedKeys(t *testing.T) {
	p := source(t, "tpm")
	if err := Available(p.source); err != nil {
		t.Fatal(err)
	}
	_, err := p.Wrap(t.Context(), keys.Binding{}, make([]byte, keys.KeySize))
	if !errors.Is(err, ErrNoTrusted) || kernelStep(err) == "" || !strings.Contains(kernelStep(err), "tpm2_evictcontrol -C o -c srk.ctx 0x81000001") {
		t.Errorf("without a storage key: %v", err)
	}
	const storageKey = `cd "$1"; tpm2_createprimary -Q -C o -G rsa2048 -c k.ctx; tpm2_evictcontrol -Q -C o -c k.ctx 0x81000001; tpm2_flushcontext -Q -t`
	sh(t, storageKey, t.TempDir())
	path := life(t, p)
	shown(t, p)
	if d := p.Describe(slotOf(t, path)); d.Software || !strings.Contains(d.Detail, "TPM") {
		t.Errorf("described as %+v", d)
	}
	// the sealed form is a TPM's, and is seen to be
	for _, other := range []string{"caam", "dcp", "tee"} {
		if _, err := source(t, other).Wrap(t.Context(), keys.Binding{}, make([]byte, keys.KeySize)); !errors.Is(err, ErrNoTrusted) {
			t.Errorf("source %s on a TPM: %v", other, err)
		}
	}
	slot, _, c, err := parseBlob(slotOf(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := (Source{kind: kindTPM}).checkMaker(slot); err != nil {
		t.Error(err)
	}
	if err := (Source{kind: kindCAAM}).checkMaker(slot); !errors.Is(err, ErrNoTrusted) || !strings.Contains(err.Error(), "kernel uses tpm") {
		t.Errorf("cipher %s: %v", c.name, err)
	}

	sh(t, `tpm2_clear -Q -c p || tpm2_clear -Q -c l`)
	if _, err := unlock(t, path); !errors.Is(err, ErrOtherChip) {
		t.Errorf("with a TPM that was cleared: %v", err)
	}
	sh(t, storageKey, t.TempDir())
	if _, err := unlock(t, path); !errors.Is(err, ErrOtherChip) {
		t.Errorf("with another storage key: %v", err)
	}
}

func slotOf(t *testing.T, path string) []byte {
	t.Helper()
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ring.Slots()[0].Blob
}

// A ring that version 1 wrote opens by its trusted slot, for ever.
func TestEncryptedFormat1Opens(t *testing.T) {
	t.Cleanup(func() { _ = exec.Command("keyctl", "purge", "user", "layervault-fixture").Run() })
	sh(t, `keyctl padd user layervault-fixture @u < testdata/format1/master.key >/dev/null`)
	opens(t, fixture(t), New(Config{}))
}
