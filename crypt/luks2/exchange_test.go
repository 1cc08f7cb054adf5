package luks2_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"layervault/crypt/luks2"
)

var next = []byte("the next passphrase")

// owner is whose the images of these tests are.
var owner = luks2.Owner{Kind: "layer", ID: "0123"}

// memImage2 is memImage in format 2, with a second slot of somebody else.
func memImage2(t *testing.T) (image, volumeKey []byte) {
	t.Helper()
	image, key := memImage(t)
	f := newCrashFile(image, 1<<30)
	must(t, luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF()))
	must(t, mustRead(t, f).Authentic(owner, secret))
	return f.stable, key
}

// exchanges are the ways in which an image gets another passphrase.
var exchanges = map[string]struct {
	from, to int // formats
	image    func(t *testing.T) (image, volumeKey []byte)
	do       func(t *testing.T, f luks2.File, old, next []byte) error
}{
	"format 1": {1, 1, memImage, func(t *testing.T, f luks2.File, old, next []byte) error {
		return luks2.Exchange(t.Context(), f, owner, old, next, luks2.RandomKeyKDF())
	}},
	"format 2": {2, 2, memImage2, func(t *testing.T, f luks2.File, old, next []byte) error {
		return luks2.Exchange(t.Context(), f, owner, old, next, luks2.RandomKeyKDF())
	}},
	"upgrade": {1, 2, memImage, func(t *testing.T, f luks2.File, old, next []byte) error {
		return luks2.Upgrade(t.Context(), f, owner, old, next, luks2.RandomKeyKDF())
	}},
}

// exchanged wants an image that opens with next and "second" and not with the old
// passphrase, nor holds anything that the exchange put there in passing.
func exchanged(t *testing.T, when string, format int, image, key []byte) {
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
	if err != nil || len(tokens) != format-1 || len(h.Slots()) != 2 || h.NeedsRepair() || h.Format() != format {
		t.Errorf("%s: left behind: tokens %v, %d slots, %v", when, tokens, len(h.Slots()), err)
	}
	if format == luks2.Format1 {
		return
	}
	if err := h.Authentic(owner, next); err != nil || bytes.Contains(tokens[0].JSON, []byte(`"next"`)) {
		t.Errorf("%s: %v, token %s", when, err, tokens[0].JSON)
	}
	if err := h.Authentic(owner, secret); !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Errorf("%s: authentic with the old passphrase: %v", when, err)
	}
}

func TestExchange(t *testing.T) {
	for name, way := range exchanges {
		t.Run(name, func(t *testing.T) {
			image, key := way.image(t)
			f := newCrashFile(image, 1<<30)
			must(t, way.do(t, f, secret, next))
			exchanged(t, "done", way.to, f.stable, key)
			for _, offset := range []int{2 * copyLen, 2*copyLen + 100<<10} { // of the destroyed slot
				if bytes.Contains(f.stable, image[offset:offset+512]) {
					t.Errorf("key material at %d is left", offset)
				}
			}
			ops := f.ops
			if err := way.do(t, f, secret, next); err != nil || f.ops != ops {
				t.Errorf("a second time: %v, %d operations", err, f.ops-ops)
			}
			if err := way.do(t, f, secret, []byte("third")); way.to == 1 && !errors.Is(err, luks2.ErrNoKey) ||
				way.to == 2 && !errors.Is(err, luks2.ErrNotAuthentic) || f.ops != ops {
				t.Errorf("without a key: %v", err)
			}
		})
	}
}

// opens wants an image that one of two passphrases opens, and authenticates where its
// format has that.
func opens(t *testing.T, when string, image []byte, passphrases ...[]byte) {
	t.Helper()
	f := newCrashFile(image, 1<<30)
	h := mustRead(t, f)
	var why []error
	for _, p := range passphrases {
		_, _, err := h.UnlockOwn(t.Context(), f, p)
		if err == nil && h.Format() == luks2.Format2 {
			err = h.Authentic(owner, p)
		}
		if err == nil {
			return
		}
		why = append(why, err)
	}
	t.Fatalf("%s: no passphrase opens: %v", when, why)
}

// TestExchangeCrash stops an exchange after each write and sync, with every write kept
// (a kill) and with any sectors since the last sync lost (a power cut). The image opens
// with one of the two keys, and the second try finishes.
func TestExchangeCrash(t *testing.T) {
	for way, do := range exchanges {
		t.Run(way, func(t *testing.T) {
			image, key := do.image(t)
			whole := newCrashFile(image, 1<<30)
			must(t, do.do(t, whole, secret, next))
			for after := range whole.ops {
				f := newCrashFile(image, after)
				if err := do.do(t, f, secret, next); !errors.Is(err, errCrash) {
					t.Fatalf("after %d: %v", after, err)
				}
				rng := rand.New(rand.NewPCG(7, uint64(after)))
				for name, left := range map[string][]byte{"killed": f.killed(rng), "power cut": f.powerCut(rng)} {
					when := name + " after " + string(rune('0'+after/10)) + string(rune('0'+after%10))
					opens(t, when, left, secret, next)
					g := newCrashFile(left, 1<<30)
					if err := do.do(t, g, secret, next); err != nil {
						t.Fatalf("%s: resume: %v", when, err)
					}
					must(t, luks2.Repair(g)) // a copy may be torn where nothing was left to write
					exchanged(t, when, do.to, g.stable, key)
				}
			}
			t.Logf("stopped after each of %d writes and syncs", whole.ops)
		})
	}
}

// An exchange that was cut short is taken back: the old passphrase is the one that stays.
func TestExchangeTakenBack(t *testing.T) {
	for _, way := range []string{"format 1", "format 2"} {
		do := exchanges[way]
		image, key := do.image(t)
		whole := newCrashFile(image, 1<<30)
		must(t, do.do(t, whole, secret, next))
		for after := range whole.ops {
			f := newCrashFile(image, after)
			if err := do.do(t, f, secret, next); !errors.Is(err, errCrash) {
				t.Fatalf("after %d: %v", after, err)
			}
			g := newCrashFile(f.killed(rand.New(rand.NewPCG(8, uint64(after)))), 1<<30)
			if err := do.do(t, g, next, secret); err != nil {
				t.Fatalf("%s: after %d: %v", way, after, err)
			}
			must(t, luks2.Repair(g))
			h := mustRead(t, g)
			if got, _, err := h.UnlockOwn(t.Context(), g, secret); err != nil || !bytes.Equal(got, key) {
				t.Errorf("%s: after %d: %v", way, after, err)
			}
			if _, _, err := h.UnlockOwn(t.Context(), g, next); !errors.Is(err, luks2.ErrNoKey) || len(h.Slots()) != 2 {
				t.Errorf("%s: after %d: %v, %d slots", way, after, err, len(h.Slots()))
			}
			if way == "format 2" {
				must(t, h.Authentic(owner, secret))
			}
		}
	}
}

// A mark that neither passphrase made removes no slot: it is planted, or of an older
// layervault. In format 2 the whole header is refused.
func TestPlantedRetiredToken(t *testing.T) {
	for way, do := range exchanges {
		image, key := do.image(t)
		f := newCrashFile(image, 1<<30)
		h := mustRead(t, f)
		_, err := h.SetToken(f, -1, json.RawMessage(`{"type":"layervault-retired","keyslots":["1"],"macs":{"1":"00"}}`))
		must(t, err)
		err = do.do(t, f, secret, next)
		if do.from == luks2.Format2 {
			if !errors.Is(err, luks2.ErrNotAuthentic) || !strings.Contains(err.Error(), "tokens.1.keyslots added") {
				t.Errorf("%s: %v", way, err)
			}
			continue
		}
		must(t, err)
		exchanged(t, way, do.to, f.stable, key) // "second" opens still
	}
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
	for _, err := range []error{
		luks2.Exchange(t.Context(), f, owner, secret, next, luks2.RandomKeyKDF()),
		luks2.Upgrade(t.Context(), f, owner, secret, next, luks2.RandomKeyKDF()),
	} {
		if !errors.Is(err, luks2.ErrNoRoom) {
			t.Fatalf("got %v", err)
		}
	}
	if _, _, err := mustRead(t, f).Unlock(f, secret); err != nil {
		t.Fatal(err)
	}
}

// Stock cryptsetup opens an image after an exchange, and in the middle of one.
func TestCryptsetupOpensExchanged(t *testing.T) {
	old := []byte("an old passphrase")
	for _, o := range []*luks2.Owner{nil, &owner} {
		f := newImage(t)
		if _, _, err := luks2.Format(f, luks2.Params{Owner: o}, luks2.RandomKeyKDF(), old); err != nil {
			t.Fatal(err)
		}
		middle := f.Name() + ".middle"
		if err := luks2.Exchange(t.Context(), &snapshot{File: f, to: middle}, owner, old, secret, luks2.RandomKeyKDF()); err != nil {
			t.Fatal(err)
		}
		for _, image := range []string{f.Name(), middle} {
			mustCryptsetup(t, "luksDump", image)
			mustCryptsetup(t, "open", "--test-passphrase", image)
		}
		if dump := mustCryptsetup(t, "luksDump", middle); !strings.Contains(dump, "layervault-retired") {
			t.Errorf("not in the middle of an exchange:\n%s", dump)
		}
		if err := luks2.Exchange(t.Context(), f, owner, secret, old, luks2.RandomKeyKDF()); err != nil {
			t.Fatal(err)
		}
		if _, err := cryptsetup(t, "open", "--test-passphrase", f.Name()); err == nil {
			t.Error("cryptsetup opens it with the exchanged passphrase")
		}
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
	if err != nil || len(tokens) == 0 || tokens[len(tokens)-1].Type != "layervault-retired" || h.NeedsRepair() {
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
	if _, _, err := luks2.Format(f, luks2.Params{Owner: &owner}, luks2.RandomKeyKDF(), secret); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if err := luks2.Exchange(b.Context(), f, owner, passphrases[i%2], passphrases[(i+1)%2], luks2.RandomKeyKDF()); err != nil {
			b.Fatal(err)
		}
	}
}
