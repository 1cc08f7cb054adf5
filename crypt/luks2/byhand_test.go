package luks2_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"layervault/crypt/luks2"
)

// argonQuick makes a slot as cryptsetup's default is, quickly.
var argonQuick = []string{"--pbkdf", "argon2id", "--pbkdf-memory", "64", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"}

// TestChangedByHand lets cryptsetup change an image of format 2 in each way it offers
// without device-mapper: cryptsetup goes on opening it, we refuse it and name the field, and
// Adopt takes it in again.
func TestChangedByHand(t *testing.T) {
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.WriteFile(second, []byte("second"), 0o600))
	token := filepath.Join(t.TempDir(), "token.json")
	must(t, os.WriteFile(token, []byte(`{"type":"others","keyslots":["0"]}`), 0o600))
	tests := []struct {
		name   string
		change func(t *testing.T, f *os.File)
		field  string // that the error names; "" where nothing of what is covered changes
		newKey bool   // the volume key is another one afterwards
		slots  int    // after Adopt
	}{
		{"luksDump", func(t *testing.T, f *os.File) {
			if dump := mustCryptsetup(t, "luksDump", f.Name()); !strings.Contains(dump, luks2.ImageToken) {
				t.Errorf("the token is not listed:\n%s", dump)
			}
		}, "", false, 1},
		{"label", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, "config", "--label", "renamed", "--subsystem", "x", f.Name())
		}, "", false, 1},
		{"repair", func(t *testing.T, f *os.File) {
			_, err := f.WriteAt([]byte("damage"), 5000)
			must(t, err)
			mustCryptsetup(t, "repair", f.Name())
			if mustRead(t, f).NeedsRepair() {
				t.Error("not repaired")
			}
		}, "", false, 1},
		{"luksAddKey", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, append([]string{"luksAddKey", f.Name(), second}, quick...)...)
		}, "keyslots.1.type", false, 2},
		{"luksAddKey argon2id", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, append([]string{"luksAddKey", f.Name(), second}, argonQuick...)...)
		}, "keyslots.1.kdf.memory", false, 2},
		{"luksConvertKey", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, append([]string{"luksConvertKey", "--key-slot", "0", f.Name()}, argonQuick...)...)
		}, "keyslots.0.kdf.type", false, 1},
		{"priority", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, "config", "--priority", "prefer", "--key-slot", "0", f.Name())
		}, "keyslots.0.priority", false, 1},
		{"token import", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, "token", "import", "--json-file", token, f.Name())
		}, "tokens.1.type", false, 1},
		{"token remove", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, "token", "remove", "--token-id", "0", f.Name())
		}, "tokens", false, 1},
		{"reencrypt", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, append([]string{"reencrypt", "--force-offline-reencrypt", f.Name()}, quick...)...)
		}, "digests.0.digest", true, 1},
		{"reencrypt with cryptsetup's own KDF", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, append([]string{"reencrypt", "--force-offline-reencrypt", f.Name()}, argonQuick...)...)
		}, "digests.0.digest", true, 1},
		{"reencrypt to another cipher", func(t *testing.T, f *os.File) {
			mustCryptsetup(t, append([]string{"reencrypt", "--force-offline-reencrypt", "--cipher", luks2.CipherESSIV, "--key-size", "256", f.Name()}, quick...)...)
		}, "segments.0.encryption", true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newImage(t)
			_, key := mustFormat(t, f, luks2.Params{Owner: &owner, Flags: []string{luks2.FlagAllowDiscards}})
			must(t, mustRead(t, f).Authentic(owner, secret))
			tt.change(t, f)
			mustCryptsetup(t, "open", "--test-passphrase", f.Name())
			wantChanged(t, mustRead(t, f).Authentic(owner, secret), tt.field)

			must(t, luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF()))
			h := mustRead(t, f)
			must(t, h.Authentic(owner, secret))
			got, _, err := h.UnlockOwn(t.Context(), f, secret)
			must(t, err)
			if bytes.Equal(got, key) == tt.newKey {
				t.Errorf("the volume key is another one: %v", !tt.newKey)
			}
			if len(h.Slots()) != tt.slots || h.NeedsRepair() {
				t.Errorf("%d slots, %v", len(h.Slots()), h.Damage())
			}
			mustCryptsetup(t, "open", "--test-passphrase", f.Name())
			wantVolumeKey(t, f, got)
			// A second time there is nothing to do.
			seq := h.SeqID()
			must(t, luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF()))
			if now := mustRead(t, f).SeqID(); now != seq {
				t.Errorf("a second time: %d changes", now-seq)
			}
		})
	}
}

func wantChanged(t *testing.T, err error, field string) {
	t.Helper()
	if field == "" {
		must(t, err)
		return
	}
	var e *luks2.HeaderError
	if !errors.As(err, &e) || !errors.Is(err, luks2.ErrNotAuthentic) || !slices.ContainsFunc(e.Fields, func(c luks2.Change) bool { return c.Field == field }) {
		t.Errorf("%v does not name %s", err, field)
	}
}

// Adopt is cut short after each write and sync, in an image whose only slot cryptsetup made
// costly: it goes on opening with cryptsetup, and the second try finishes.
func TestAdoptCrash(t *testing.T) {
	f := newImage(t)
	_, key := mustFormat(t, f, luks2.Params{Owner: &owner, KeySize: 32})
	mustCryptsetup(t, append([]string{"luksConvertKey", "--key-slot", "0", f.Name()}, argonQuick...)...)
	image, err := os.ReadFile(f.Name())
	must(t, err)
	image = image[:1<<20]
	adopt := func(f luks2.File) error {
		return luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF())
	}
	whole := newCrashFile(image, 1<<30)
	must(t, adopt(whole))
	for after := range whole.ops {
		f := newCrashFile(image, after)
		if err := adopt(f); !errors.Is(err, errCrash) {
			t.Fatalf("after %d: %v", after, err)
		}
		rng := rand.New(rand.NewPCG(9, uint64(after)))
		for _, left := range [][]byte{f.killed(rng), f.powerCut(rng)} {
			g := newCrashFile(left, 1<<30)
			if got, _, err := mustRead(t, g).Unlock(g, secret); err != nil || !bytes.Equal(got, key) {
				t.Fatalf("after %d: %v", after, err)
			}
			must(t, adopt(g))
			must(t, luks2.Repair(g))
			h := mustRead(t, g)
			must(t, h.Authentic(owner, secret))
			if _, _, err := h.UnlockOwn(t.Context(), g, secret); err != nil || len(h.Slots()) != 1 {
				t.Errorf("after %d: %d slots, %v", after, len(h.Slots()), err)
			}
			if tokens, err := h.Tokens(); err != nil || len(tokens) != 1 {
				t.Errorf("after %d: tokens %v, %v", after, tokens, err)
			}
		}
	}
}

// A slot of others that wants more memory than there is keeps nobody from adopting, opening or
// exchanging. Here it wants 128 MiB; one try would be seen in the memory of this process.
func TestCostlySlotOfOthersIsNotTried(t *testing.T) {
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.WriteFile(second, []byte("second"), 0o600))
	f := newImage(t)
	mustFormat(t, f, luks2.Params{Owner: &owner})
	mustCryptsetup(t, "luksAddKey", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "131072", "--pbkdf-parallel", "1", f.Name(), second)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	must(t, luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF()))
	must(t, luks2.Exchange(t.Context(), f, owner, secret, next, luks2.RandomKeyKDF()))
	h := mustRead(t, f)
	_, _, err := h.UnlockOwn(t.Context(), f, next)
	must(t, err)
	if _, _, err := h.UnlockOwn(t.Context(), f, secret); !errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("the old passphrase: %v", err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d MiB", used>>20)
	}
	if len(h.Slots()) != 2 {
		t.Errorf("%d slots", len(h.Slots()))
	}
}

// What nothing may have is not taken in, asked or not: a cipher that hides nothing, data
// elsewhere, a reencryption that is not finished.
func TestAdoptRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"a cipher that is not on the list": {"--cipher", "aes-cbc-plain64", "--key-size", "256"},
		"a larger header":                  {"--luks2-metadata-size", "32k"},
		"data elsewhere":                   {"--offset", "4096"},
	} {
		f := luksFormat(t, slices.Concat([]string{"--offset", "2048"}, quick, args)...)
		if err := luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newImage(t)
	mustFormat(t, f, luks2.Params{Owner: &owner})
	mustCryptsetup(t, append([]string{"reencrypt", "--init-only", f.Name()}, quick...)...)
	if err := luks2.Adopt(t.Context(), f, owner, secret, secret, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrUnsupported) {
		t.Errorf("half-way through a reencryption: %v", err)
	}
	g := newImage(t)
	mustFormat(t, g, luks2.Params{Owner: &owner})
	before, err := os.ReadFile(g.Name())
	must(t, err)
	if err := luks2.Adopt(t.Context(), g, owner, next, next, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("without the key: %v", err)
	}
	after, err := os.ReadFile(g.Name())
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("it was written to")
	}
}

// A token is replaced, and the header stays authentic through each crash.
func TestReplaceToken(t *testing.T) {
	image, key := memImage2(t)
	text := []byte(`{"type":"layervault-volume","keyslots":[],"name":"one"}`)
	whole := newCrashFile(image, 1<<30)
	must(t, luks2.ReplaceToken(whole, owner, secret, text))
	image = whole.stable
	text = bytes.Replace(text, []byte("one"), []byte("two"), 1)
	for after := 0; ; after++ {
		f := newCrashFile(image, after)
		err := luks2.ReplaceToken(f, owner, secret, text)
		opens(t, "cut short", f.now, secret)
		if err == nil {
			break
		}
	}
	f := newCrashFile(image, 1<<30)
	must(t, luks2.ReplaceToken(f, owner, secret, text))
	h := mustRead(t, f)
	must(t, h.Authentic(owner, secret))
	tokens, err := h.Tokens()
	must(t, err)
	if len(tokens) != 2 || !strings.Contains(string(tokens[1].JSON), "two") {
		t.Errorf("tokens %v", tokens)
	}
	if got, _, err := h.UnlockOwn(t.Context(), f, secret); err != nil || !bytes.Equal(got, key) {
		t.Error(err)
	}
}
