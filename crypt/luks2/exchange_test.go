package luks2_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"layervault/crypt/luks2"
)

var next = []byte("the next passphrase")

// exchanged wants an image that opens with next and "second" and not with the old
// passphrase, nor holds anything that the exchange put there in passing.
func exchanged(t *testing.T, when string, image, key []byte) {
	t.Helper()
	f := newCrashFile(image, 1<<30)
	h := mustRead(t, f)
	for _, p := range [][]byte{next, []byte("second")} {
		if got, _, err := h.Unlock(f, p); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %q: %v", when, p, err)
		}
	}
	if _, _, err := h.Unlock(f, secret); !errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("%s: the old passphrase: %v", when, err)
	}
	tokens, err := h.Tokens()
	if err != nil || len(tokens) != 0 || len(h.Slots()) != 2 || h.NeedsRepair() {
		t.Errorf("%s: left behind: tokens %v, %d slots, %v", when, tokens, len(h.Slots()), err)
	}
}

func TestExchange(t *testing.T) {
	image, key := memImage(t)
	f := newCrashFile(image, 1<<30)
	if err := luks2.Exchange(f, secret, next, luks2.RandomKeyKDF()); err != nil {
		t.Fatal(err)
	}
	exchanged(t, "done", f.stable, key)
	for _, offset := range []int{2 * copyLen, 2*copyLen + 100<<10} { // of the destroyed slot
		if bytes.Contains(f.stable, image[offset:offset+512]) {
			t.Errorf("key material at %d is left", offset)
		}
	}
	ops := f.ops
	if err := luks2.Exchange(f, secret, next, luks2.RandomKeyKDF()); err != nil || f.ops != ops {
		t.Errorf("a second time: %v, %d operations", err, f.ops-ops)
	}
	if err := luks2.Exchange(f, secret, []byte("third"), luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrNoKey) || f.ops != ops {
		t.Errorf("without a key: %v", err)
	}
}

// TestExchangeCrash stops an exchange after each write and sync, with every write kept
// (a kill) and with any sectors since the last sync lost (a power cut). The image opens
// with one of the two keys, and the second try finishes.
func TestExchangeCrash(t *testing.T) {
	image, key := memImage(t)
	whole := newCrashFile(image, 1<<30)
	if err := luks2.Exchange(whole, secret, next, luks2.RandomKeyKDF()); err != nil {
		t.Fatal(err)
	}
	for after := range whole.ops {
		f := newCrashFile(image, after)
		if err := luks2.Exchange(f, secret, next, luks2.RandomKeyKDF()); !errors.Is(err, errCrash) {
			t.Fatalf("after %d: %v", after, err)
		}
		rng := rand.New(rand.NewPCG(7, uint64(after)))
		for name, left := range map[string][]byte{"killed": f.killed(rng), "power cut": f.powerCut(rng)} {
			g := newCrashFile(left, 1<<30)
			h := mustRead(t, g)
			_, _, oldErr := h.Unlock(g, secret)
			_, _, nextErr := h.Unlock(g, next)
			if oldErr != nil && nextErr != nil {
				t.Fatalf("%s after %d: neither key opens: %v; %v", name, after, oldErr, nextErr)
			}
			if err := luks2.Exchange(g, secret, next, luks2.RandomKeyKDF()); err != nil {
				t.Fatalf("%s after %d: resume: %v", name, after, err)
			}
			if err := luks2.Repair(g); err != nil { // a copy may be torn where nothing was left to write
				t.Fatal(err)
			}
			exchanged(t, name, g.stable, key)
		}
	}
	t.Logf("stopped after each of %d writes and syncs", whole.ops)
}

// An image without room for one more slot keeps what it has.
func TestExchangeWithoutRoom(t *testing.T) {
	f := newImage(t)
	h, key := mustFormat(t, f, luks2.Params{})
	for _, p := range []string{"a", "b"} {
		if _, err := h.AddSlot(f, key, []byte(p), luks2.RandomKeyKDF()); err != nil {
			t.Fatal(err)
		}
	}
	if err := luks2.Exchange(f, secret, next, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrNoRoom) {
		t.Fatalf("got %v", err)
	}
	if _, _, err := mustRead(t, f).Unlock(f, secret); err != nil {
		t.Fatal(err)
	}
}

// Stock cryptsetup opens an image after an exchange, and in the middle of one.
func TestCryptsetupOpensExchanged(t *testing.T) {
	old := []byte("an old passphrase")
	f := newImage(t)
	if _, _, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), old); err != nil {
		t.Fatal(err)
	}
	middle := f.Name() + ".middle"
	if err := luks2.Exchange(&snapshot{File: f, to: middle}, old, secret, luks2.RandomKeyKDF()); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{f.Name(), middle} {
		mustCryptsetup(t, "luksDump", image)
		mustCryptsetup(t, "open", "--test-passphrase", image)
	}
	if dump := mustCryptsetup(t, "luksDump", middle); !strings.Contains(dump, "layervault-retired") {
		t.Errorf("not in the middle of an exchange:\n%s", dump)
	}
	if err := luks2.Exchange(f, secret, old, luks2.RandomKeyKDF()); err != nil {
		t.Fatal(err)
	}
	if _, err := cryptsetup(t, "open", "--test-passphrase", f.Name()); err == nil {
		t.Error("cryptsetup opens it with the exchanged passphrase")
	}
}

// snapshot copies an image when its old slot is marked and not yet removed.
type snapshot struct {
	*os.File
	to   string
	done bool
}

func (s *snapshot) Sync() error {
	if err := s.File.Sync(); err != nil || s.done {
		return err
	}
	h, err := luks2.Read(s.File)
	if err != nil {
		return err
	}
	tokens, err := h.Tokens()
	if err != nil || len(tokens) == 0 || h.NeedsRepair() {
		return err
	}
	s.done = true
	data, err := os.ReadFile(s.Name())
	if err != nil {
		return err
	}
	return os.WriteFile(s.to, data, 0o600)
}

// BenchmarkExchange is what one image costs in a rotation, on the disk of the temporary
// folder: 20 writes and syncs, and the derivations of five tries.
func BenchmarkExchange(b *testing.B) {
	f := newImage(b)
	passphrases := [2][]byte{secret, next}
	if _, _, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), secret); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if err := luks2.Exchange(f, passphrases[i%2], passphrases[(i+1)%2], luks2.RandomKeyKDF()); err != nil {
			b.Fatal(err)
		}
	}
}
