package luks2

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// The evil maid: somebody writes to the switched-off disk, without any key. Each case
// edits the JSON of a genuine image and computes the checksums anew, which takes no key.
//
// The control of each is that Read and Unlock, which check neither list nor MAC, open the
// edited image with the genuine passphrase, and hand the edited values to whoever maps it.

var evilOwner = Owner{Kind: "layer", ID: "aaaa"}

var evilPass = []byte("passphrase of layer aaaa")

// genuine is an image of format 2 with a volume's record, and a key that fits two ciphers.
func genuine(t testing.TB) memFile {
	t.Helper()
	image := make(memFile, DefaultDataOffset)
	_, key, err := Format(image, Params{
		UUID: "6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11", KeySize: 32, Owner: &evilOwner, Flags: []string{FlagAllowDiscards},
		Tokens: []json.RawMessage{[]byte(`{"type":"layervault-volume","keyslots":[],"name":"secrets"}`)},
	}, RandomKeyKDF(), evilPass)
	if err != nil {
		t.Fatal(err)
	}
	clear(key)
	return image
}

// edited is the image with its JSON changed in both copies.
func edited(t testing.TB, image memFile, edit func(doc object)) memFile {
	t.Helper()
	doc, err := decodeTree(mustText(t, image))
	if err != nil {
		t.Fatal(err)
	}
	edit(doc)
	text, err := encodeTree(doc)
	if err != nil {
		t.Fatal(err)
	}
	return forge(t, image, text)
}

func segmentField(field string, value any) func(object) {
	return func(d object) { at(d, "segments", "0")[field] = value }
}

func TestEvilMaid(t *testing.T) {
	tests := []struct {
		name  string
		edit  func(doc object)
		field string // which the error names
		shape bool   // refused by the list too, and so in format 1
	}{
		{"null cipher, many keys", segmentField("encryption", "cipher_null:128-ecb"), "segments.0.encryption", true},
		{"null cipher, words of a table", segmentField("encryption", "cipher_null-ecb - 0 7:1 2048 0"), "segments.0.encryption", true},
		{"null cipher", segmentField("encryption", "cipher_null-ecb"), "segments.0.encryption", true},
		{"null cipher of the kernel's API", segmentField("encryption", "capi:ecb(cipher_null)-null"), "segments.0.encryption", true},
		{"table injected", segmentField("encryption", "aes-xts-plain64 :32:logon:other:key 0 8:0 0"), "segments.0.encryption", true},
		{"many keys", segmentField("encryption", "aes:2-ecb"), "segments.0.encryption", true},
		{"weaker cipher", segmentField("encryption", "aes-ecb"), "segments.0.encryption", true},
		{"another cipher of the list", segmentField("encryption", CipherESSIV), "segments.0.encryption", false},
		{"sector size", segmentField("sector_size", number(512)), "segments.0.sector_size", false},
		{"sector size beyond the list", segmentField("sector_size", number(8192)), "segments.0.sector_size", true},
		{"offset", segmentField("offset", "2097152"), "segments.0.offset", true},
		{"size", segmentField("size", "524288"), "segments.0.size", true},
		{"IV tweak", segmentField("iv_tweak", "8"), "segments.0.iv_tweak", true},
		{"segment flags", segmentField("flags", []any{"in-reencryption"}), "segments.0.flags", true},
		{"a member that nobody knows", segmentField("future", "x"), "segments.0.future", false},
		{"flags", func(d object) { at(d, "config")["flags"] = []any{"same-cpu-crypt"} }, "config.flags", false},
		{"no flags", func(d object) { delete(at(d, "config"), "flags") }, "config.flags", false},
		{"foreign digest", func(d object) {
			at(d, "digests")["1"] = object{"type": "pbkdf2", "hash": "sha256", "iterations": number(1000), "keyslots": []any{}, "segments": []any{},
				"salt": base64.StdEncoding.EncodeToString(make([]byte, 32)), "digest": base64.StdEncoding.EncodeToString(make([]byte, 32))}
		}, "digests.1.digest", false},
		{"foreign slot", func(d object) {
			k := keyslot{id: 1, typ: "luks2", keySize: 32, areaOffset: 300 << 10, areaSize: 128 << 10, afHash: "sha256", afStripes: afStripes,
				areaCipher: defaultAreaCipher, areaKeySize: 64, kdf: RandomKeyKDF(), salt: make([]byte, saltSize)}
			at(d, "keyslots")["1"] = k.json()
			at(d, "digests", "0")["keyslots"] = []any{"0", "1"}
		}, "keyslots.1.area.offset", false},
		{"slot's priority", func(d object) { at(d, "keyslots", "0")["priority"] = number(2) }, "keyslots.0.priority", false},
		{"foreign token", func(d object) { at(d, "tokens")["5"] = object{"type": "systemd-tpm2", "keyslots": []any{"0"}} }, "tokens.5.type", false},
		{"another volume's name", func(d object) { at(d, "tokens", "0")["name"] = "public" }, "tokens.0.name", false},
		{"a planted mark of retirement", func(d object) { at(d, "tokens")["5"] = object{"type": retiredType, "keyslots": []any{"0"}} }, "tokens.5.type", false},
		{"record removed", func(d object) { delete(at(d, "tokens"), "0") }, "tokens.0.name", false},
		{"a member at the root", func(d object) { d["kind"] = "volume" }, "kind", false},
		{"another kind", func(d object) { at(d, "tokens", "1")["kind"] = "volume" }, "kind", false},
		{"another id", func(d object) { at(d, "tokens", "1")["id"] = "bbbb" }, "id", false},
		{"MAC", func(d object) { at(d, "tokens", "1")["mac"] = strings.Repeat("0", 64) }, FieldMAC, false},
		{"no MAC", func(d object) { delete(at(d, "tokens", "1"), "mac") }, FieldMAC, false},
		{"a MAC of somebody else's beside it", func(d object) { at(d, "tokens", "1")["next"] = strings.Repeat("0", 64) }, FieldMAC, false},
		{"version 1", func(d object) { at(d, "tokens", "1")["version"] = number(1) }, "tokens.1.version", false},
		{"a second token", func(d object) { at(d, "tokens")["7"] = at(d, "tokens", "1") }, "tokens.7", false},
		{"token in the form of the future", func(d object) { at(d, "tokens", "1")["more"] = "x" }, "tokens.1", false},
		{"token stripped", func(d object) { delete(at(d, "tokens"), "1") }, "tokens", false},
	}
	image := genuine(t)
	h, err := Read(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.CheckOwn(), h.Authentic(evilOwner, evilPass)); err != nil {
		t.Fatalf("the genuine image: %v", err)
	}
	key, _, err := h.UnlockOwn(t.Context(), image, evilPass)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			evil := edited(t, image, tt.edit)
			h, err := Read(evil)
			if err != nil {
				t.Fatal(err)
			}
			if got, _, err := h.Unlock(evil, evilPass); err != nil || !bytes.Equal(got, key) {
				t.Errorf("control: without the checks it does not open: %v", err)
			}
			wantField(t, "MAC", h.Authentic(evilOwner, evilPass), ErrNotAuthentic, tt.field)
			if tt.shape {
				wantField(t, "list", h.CheckOwn(), ErrForbidden, tt.field)
			} else if err := h.CheckOwn(); err != nil {
				t.Errorf("the list: %v", err)
			}
			for _, change := range []func() error{
				func() error { return Exchange(t.Context(), evil, evilOwner, evilPass, []byte("next"), RandomKeyKDF()) },
				func() error { return ReplaceToken(evil, evilOwner, evilPass, []byte(`{"type":"x","keyslots":[]}`)) },
			} {
				before := bytes.Clone(evil)
				if h.Format() == Format1 {
					break // its passphrase is another one, see TestEvilMaidFormats
				}
				if err := change(); !errors.Is(err, ErrNotAuthentic) || !bytes.Equal(before, evil) {
					t.Errorf("a change: %v", err)
				}
			}
		})
	}
}

func wantField(t *testing.T, what string, err, reason error, field string) {
	t.Helper()
	var e *HeaderError
	if !errors.As(err, &e) || !errors.Is(err, reason) {
		t.Errorf("%s: %v, want %v", what, err, reason)
		return
	}
	if !slices.ContainsFunc(e.Fields, func(c Change) bool { return c.Field == field }) || !strings.Contains(err.Error(), e.Field()) {
		t.Errorf("%s: the error names %v, not %s: %v", what, e.Fields, field, err)
	}
}

// What is in the binary header, and whole headers of other images.
func TestEvilMaidHeaders(t *testing.T) {
	image := genuine(t)
	other := make(memFile, DefaultDataOffset)
	otherOwner, otherPass := Owner{Kind: "layer", ID: "bbbb"}, []byte("passphrase of layer bbbb")
	if _, _, err := Format(other, Params{Owner: &otherOwner}, RandomKeyKDF(), otherPass); err != nil {
		t.Fatal(err)
	}
	read := func(m memFile) *Header {
		t.Helper()
		h, err := Read(m)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	t.Run("UUID of another image", func(t *testing.T) {
		evil := rebin(t, image, func(b *binHeader) { b.uuid = read(other).UUID() })
		h := read(evil)
		if _, _, err := h.Unlock(evil, evilPass); err != nil {
			t.Errorf("control: %v", err)
		}
		wantField(t, "MAC", h.Authentic(evilOwner, evilPass), ErrNotAuthentic, "uuid")
	})
	t.Run("UUID that is none", func(t *testing.T) {
		evil := rebin(t, image, func(b *binHeader) { b.uuid = "x 0 1 linear" })
		if _, _, err := read(evil).Unlock(evil, evilPass); err != nil {
			t.Errorf("control: %v", err)
		}
		wantField(t, "list", read(evil).CheckOwn(), ErrForbidden, "uuid")
	})
	t.Run("header of another image", func(t *testing.T) {
		evil := bytes.Clone(image)
		copy(evil, other)
		h := read(evil)
		if _, _, err := h.Unlock(memFile(evil), otherPass); err != nil {
			t.Errorf("control: %v", err)
		}
		wantField(t, "MAC", h.Authentic(evilOwner, otherPass), ErrNotAuthentic, "id")
		if _, _, err := h.UnlockOwn(t.Context(), memFile(evil), evilPass); !errors.Is(err, ErrNoKey) {
			t.Errorf("with this image's passphrase: %v", err)
		}
	})
	t.Run("one copy is newer", func(t *testing.T) {
		evil := edited(t, image, segmentField("encryption", "cipher_null-ecb"))
		newer := rebin(t, evil, func(b *binHeader) { b.seqID += 10 })
		mixed := memFile(bytes.Clone(image))
		copy(mixed, newer[:DefaultMetadataSize])
		h := read(mixed)
		if h.Segment().Cipher != "cipher_null-ecb" {
			t.Error("control: the edited copy does not count")
		}
		wantField(t, "MAC", h.Authentic(evilOwner, evilPass), ErrNotAuthentic, "segments.0.encryption")
	})
}

// rebin changes the binary header of both copies.
func rebin(t *testing.T, image memFile, edit func(*binHeader)) memFile {
	t.Helper()
	bin, err := decodeBin(image, 0)
	if err != nil {
		t.Fatal(err)
	}
	edit(&bin)
	out := memFile(bytes.Clone(image))
	for i := range int64(2) {
		raw, err := bin.encode(i*bin.size, [saltLen]byte{byte(i)}, mustText(t, image))
		if err != nil {
			t.Fatal(err)
		}
		copy(out[i*bin.size:], raw)
	}
	return out
}

// A format 2 image without its token opens with none of the passphrases of format 1, and
// one of format 1 does not become authentic by a token that was made up.
func TestEvilMaidFormats(t *testing.T) {
	image := genuine(t)
	evil := edited(t, image, func(d object) { delete(at(d, "tokens"), "1") })
	h, err := Read(evil)
	if err != nil || h.Format() != Format1 {
		t.Fatalf("format %d, %v", h.Format(), err)
	}
	if _, _, err := h.UnlockOwn(t.Context(), evil, []byte("passphrase of format 1")); !errors.Is(err, ErrNoKey) {
		t.Errorf("stripped: %v", err)
	}
	first, _ := formatted(t, RandomKeyKDF())
	made := edited(t, first, func(d object) {
		at(d, "tokens")["0"] = object{"type": ImageToken, "keyslots": []any{}, "version": number(2), "kind": "layer", "id": "aaaa",
			"mac": strings.Repeat("a", 64), "fields": object{}}
	})
	if h, err = Read(made); err != nil || h.Format() != Format2 {
		t.Fatalf("format %d, %v", h.Format(), err)
	}
	if err := h.Authentic(evilOwner, []byte("x")); !errors.Is(err, ErrNotAuthentic) {
		t.Errorf("made up: %v", err)
	}
	future := edited(t, image, func(d object) { at(d, "tokens", "1")["version"] = number(3) })
	if h, err = Read(future); err != nil {
		t.Fatal(err)
	}
	if err := h.Authentic(evilOwner, evilPass); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a newer format: %v", err)
	}
}

// Slots that others may have made costly are passed over, and all together are bounded.
func TestCostlySlots(t *testing.T) {
	image := genuine(t)
	// Slots that nothing opens, each of which asks for a gigabyte: a test that tried one
	// would be seen.
	evil := edited(t, image, func(d object) {
		names := []any{"0"}
		for id, offset := range []int64{0, 288 << 10, 416 << 10, 544 << 10, 672 << 10, 800 << 10} {
			if id == 0 {
				continue
			}
			k := keyslot{id: id, typ: "luks2", priority: 2, keySize: 32, areaOffset: offset, areaSize: 128 << 10, afHash: "sha256", afStripes: afStripes,
				areaCipher: defaultAreaCipher, areaKeySize: 64, salt: make([]byte, saltSize),
				kdf: KDF{Type: KDFArgon2id, Iterations: 64, MemoryKiB: 1 << 20, Parallelism: 1}}
			slot := k.json()
			slot["priority"] = number(2)
			name := string(rune('0' + id))
			at(d, "keyslots")[name] = slot
			names = append(names, name)
		}
		at(d, "digests", "0")["keyslots"] = names
	})
	h, err := Read(evil)
	if err != nil {
		t.Fatal(err)
	}
	if _, slot, err := h.UnlockOwn(t.Context(), evil, evilPass); err != nil || slot != 0 {
		t.Errorf("slot %d, %v", slot, err)
	}
	_, _, err = h.UnlockOwn(t.Context(), evil, []byte("wrong"))
	if !errors.Is(err, ErrNoKey) || !errors.Is(err, ErrTooCostly) {
		t.Errorf("with a wrong key: %v", err)
	}
	// The bound of all slots together.
	var tried []int
	var spent budget
	for _, k := range h.meta.candidates() {
		if spent.take(k) == nil {
			tried = append(tried, k.id)
		}
	}
	if len(tried) > 2 {
		t.Errorf("slots %d are tried", tried)
	}
}

// The context ends an unlocking between two slots.
func TestUnlockCancelled(t *testing.T) {
	image := genuine(t)
	h, err := Read(image)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the mount was given up"))
	if _, _, err := h.UnlockAny(ctx, image, evilPass); err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("UnlockAny: %v", err)
	}
	if _, _, err := h.UnlockOwn(ctx, image, evilPass); err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("UnlockOwn: %v", err)
	}
}
