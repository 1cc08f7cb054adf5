package crypt_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"layervault/crypt"
	"layervault/crypt/luks2"
)

// passphrase stands in for the key ring: text, so that cryptsetup takes it as a key file.
func passphrase(_ context.Context, format int, uuid string) ([]byte, error) {
	return fmt.Appendf(nil, "%x", sha256.Sum256(fmt.Appendf(nil, "test %d %s", format, uuid))), nil
}

// owner is whose the images of these tests are.
var owner = crypt.Owner{Kind: "layer", ID: "test"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// forge edits the JSON of both header copies, or of one, and computes their checksums anew,
// which takes no key. It also raises the sequence number by raise.
func forge(t testing.TB, path string, copies []int64, raise byte, edit func(doc map[string]any)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	const size, text, checksum = 16 << 10, 4096, 448
	for _, i := range copies {
		raw := make([]byte, size)
		_, err := f.ReadAt(raw, i*size)
		must(t, err)
		var doc map[string]any
		must(t, json.NewDecoder(bytes.NewReader(raw[text:])).Decode(&doc))
		edit(doc)
		body, err := json.Marshal(doc)
		must(t, err)
		clear(raw[text:])
		copy(raw[text:], body)
		raw[23] += raise // of the sequence number, big endian
		clear(raw[checksum : checksum+64])
		sum := sha256.Sum256(raw)
		copy(raw[checksum:], sum[:])
		_, err = f.WriteAt(raw, i*size)
		must(t, err)
	}
}

var bothCopies = []int64{0, 1}

// encryption edits the data cipher.
func encryption(cipher string) func(map[string]any) {
	return func(doc map[string]any) {
		doc["segments"].(map[string]any)["0"].(map[string]any)["encryption"] = cipher
	}
}

// blank is a device whose image has a header and no file system, for what is refused before
// the kernel is asked for anything.
func blank(t *testing.T, format int) *testImage {
	t.Helper()
	dir := t.TempDir()
	d := &testImage{
		Image: crypt.Image{Path: filepath.Join(dir, "image.luks"), Owner: owner, Key: passphrase}, mnt: dir,
	}
	f, err := os.Create(d.Path)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	p := luks2.Params{UUID: "6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11"}
	if format == luks2.Format2 {
		p.Owner = &owner
	}
	pass, _ := passphrase(t.Context(), format, p.UUID)
	_, key, err := luks2.Format(f, p, luks2.RandomKeyKDF(), pass)
	must(t, err)
	clear(key)
	must(t, f.Truncate(4<<20))
	return d
}

// wantRefused wants an image that does not open, for this reason and naming this field, and
// that nothing was written to. The control: Read and Unlock, which check nothing, open it.
func wantRefused(t *testing.T, d *testImage, pass []byte, reason error, field string) {
	t.Helper()
	f, err := os.Open(d.Path)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	h, err := luks2.Read(f)
	must(t, err)
	if key, _, err := h.Unlock(f, pass); err != nil {
		t.Errorf("control: without the checks it does not open: %v", err)
	} else {
		clear(key)
	}
	before := head(t, d)
	for what, do := range map[string]func() error{
		"Mount":    func() error { return d.get(t.Context()) },
		"Grow":     func() error { return d.grow(t.Context(), 64<<20) },
		"SetToken": func() error { return d.SetToken(t.Context(), []byte(`{"type":"x","keyslots":[]}`)) },
	} {
		if what == "SetToken" && h.Format() == luks2.Format1 {
			continue
		}
		err := do()
		var e *luks2.HeaderError
		named := errors.As(err, &e) && slices.ContainsFunc(e.Fields, func(c luks2.Change) bool { return c.Field == field })
		if what == "SetToken" && errors.Is(reason, luks2.ErrForbidden) {
			named = errors.Is(err, luks2.ErrNotAuthentic) // it asks for the MAC alone
		} else if !errors.Is(err, reason) {
			named = false
		}
		if !named || !strings.Contains(err.Error(), d.Path) {
			t.Errorf("%s: %v, want %v of %s", what, err, reason, field)
		}
	}
	if !bytes.Equal(before, head(t, d)) {
		t.Error("it was written to")
	}
}

// head is what of an image may be changed by whoever opens it.
func head(t *testing.T, d *testImage) []byte {
	t.Helper()
	b, err := os.ReadFile(d.Path)
	must(t, err)
	return b[:min(len(b), 1<<20)]
}

// What an evil maid does to an image is refused before anything is mapped, in both formats
// where the list alone does it.
func TestEvilMaid(t *testing.T) {
	for _, format := range []int{luks2.Format1, luks2.Format2} {
		for _, cipher := range []string{
			"cipher_null:128-ecb", "cipher_null-ecb", "cipher_null-ecb - 0 7:1 2048 0", "capi:ecb(cipher_null)-null", "aes:2-ecb", "aes-xts-plain64 :1",
		} {
			t.Run(fmt.Sprint(format, " ", cipher), func(t *testing.T) {
				d := blank(t, format)
				forge(t, d.Path, bothCopies, 0, encryption(cipher))
				wantRefused(t, d, passOf(t, d, format), luks2.ErrForbidden, "segments.0.encryption")
			})
		}
		for name, edit := range map[string]func(map[string]any){
			"iv_tweak": func(s map[string]any) { s["iv_tweak"] = "8" },
			"offset":   func(s map[string]any) { s["offset"] = "2097152" },
			"size":     func(s map[string]any) { s["size"] = "1048576" },
			"flags":    func(s map[string]any) { s["flags"] = []string{"x"} },
		} {
			t.Run(fmt.Sprint(format, " ", name), func(t *testing.T) {
				d := blank(t, format)
				forge(t, d.Path, bothCopies, 0, func(doc map[string]any) { edit(doc["segments"].(map[string]any)["0"].(map[string]any)) })
				wantRefused(t, d, passOf(t, d, format), luks2.ErrForbidden, "segments.0."+name)
			})
		}
	}
	d := blank(t, luks2.Format2)
	forge(t, d.Path, bothCopies, 0, func(doc map[string]any) {
		doc["segments"].(map[string]any)["0"].(map[string]any)["sector_size"] = 512
	})
	wantRefused(t, d, passOf(t, d, luks2.Format2), luks2.ErrNotAuthentic, "segments.0.sector_size")
	// As another's image: the kind and the id are in its passphrase, too.
	d = blank(t, luks2.Format2)
	d.ID = "other"
	wantRefused(t, d, passOf(t, d, luks2.Format2), luks2.ErrNotAuthentic, "id")
}

func passOf(t *testing.T, d *testImage, format int) []byte {
	t.Helper()
	uuid, err := d.UUID()
	must(t, err)
	pass, err := passphrase(t.Context(), format, uuid)
	must(t, err)
	return pass
}

// A newer copy that was forged does not overwrite the genuine one: a bad copy is mended only
// from one that was verified. A genuine one that was torn is mended.
func TestForgedCopyIsNotSpread(t *testing.T) {
	for _, format := range []int{luks2.Format1, luks2.Format2} {
		d := blank(t, format)
		forge(t, d.Path, []int64{0}, 5, encryption("cipher_null-ecb"))
		wantRefused(t, d, passOf(t, d, format), luks2.ErrForbidden, "segments.0.encryption")
	}
	d := blank(t, luks2.Format2)
	forge(t, d.Path, []int64{1}, 5, encryption(luks2.CipherESSIV))
	forge(t, d.Path, []int64{1}, 0, func(doc map[string]any) { delete(doc["config"].(map[string]any), "flags") })
	if err := d.get(t.Context()); err == nil {
		t.Error("opened")
	}
	f, err := os.Open(d.Path)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	if h, err := luks2.Read(f); err != nil || !h.NeedsRepair() {
		t.Errorf("the forged copy was spread, %v", err)
	}

	torn := blank(t, luks2.Format2)
	w, err := os.OpenFile(torn.Path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, w.Close()) }()
	_, err = w.WriteAt([]byte("damage"), 5000)
	must(t, err)
	torn.Key = func(context.Context, int, string) ([]byte, error) { return []byte("wrong"), nil }
	if err := torn.get(t.Context()); !errors.Is(err, luks2.ErrNoKey) || !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Errorf("with a wrong key: %v", err)
	}
	if h, err := luks2.Read(w); err != nil || !h.NeedsRepair() {
		t.Errorf("mended without the key, %v", err)
	}
	torn.Key = passphrase
	var refused *luks2.HeaderError
	if err := torn.get(t.Context()); err == nil || errors.As(err, &refused) { // there is no file system in it
		t.Errorf("a torn copy: %v", err)
	}
	if h, err := luks2.Read(w); err != nil || h.NeedsRepair() {
		t.Errorf("not mended, %v", err)
	}
}

// What a tier does not accept any more is said so, and brought up to date by Upgrade or
// Adopt, whose key does not ask for the tier's floor.
func TestFloorAndUpgrade(t *testing.T) {
	d := blank(t, luks2.Format1)
	strict := *d
	strict.Key = func(ctx context.Context, format int, uuid string) ([]byte, error) {
		if err := crypt.CheckFormat(format, luks2.Format2); err != nil {
			return nil, err
		}
		return passphrase(ctx, format, uuid)
	}
	var old *crypt.FormatError
	if err := strict.get(t.Context()); !errors.As(err, &old) || !errors.Is(err, crypt.ErrOldFormat) || old.Format != 1 || old.Floor != 2 {
		t.Fatalf("below the floor: %v", err)
	}
	must(t, d.Upgrade(t.Context()))
	before := head(t, d)
	must(t, d.Upgrade(t.Context()))
	if !bytes.Equal(before, head(t, d)) {
		t.Error("an image of format 2 was written to")
	}
	var refused *luks2.HeaderError
	if err := strict.get(t.Context()); err == nil || errors.As(err, &refused) || errors.Is(err, crypt.ErrOldFormat) || errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("after Upgrade: %v", err) // not for its header's sake
	}
	if changes, err := d.Changes(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("changes %v, %v", changes, err)
	}

	back := blank(t, luks2.Format1)
	if changes, err := back.Changes(t.Context()); err != nil || len(changes) != 1 || changes[0].Field != "tokens" {
		t.Errorf("changes %v, %v", changes, err)
	}
	must(t, back.Adopt(t.Context()))
	if format, _, err := back.Identify(); err != nil || format != luks2.Format2 {
		t.Errorf("format %d, %v", format, err)
	}
	if changes, err := back.Changes(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("changes %v, %v", changes, err)
	}
}

// A change by hand is listed field by field, and adopted.
func TestAdopt(t *testing.T) {
	d := blank(t, luks2.Format2)
	forge(t, d.Path, bothCopies, 0, func(doc map[string]any) {
		doc["tokens"].(map[string]any)["7"] = map[string]any{"type": "systemd-tpm2", "keyslots": []string{"0"}}
		doc["config"].(map[string]any)["flags"] = []string{"same-cpu-crypt"}
	})
	changes, err := d.Changes(t.Context())
	must(t, err)
	var fields []string
	for _, c := range changes {
		fields = append(fields, c.Field+" "+c.What+" "+c.Now)
	}
	if want := []string{`config.flags added ["same-cpu-crypt"]`, `tokens.7.keyslots added ["0"]`, `tokens.7.type added "systemd-tpm2"`}; !slices.Equal(fields, want) {
		t.Errorf("changes %q, want %q", fields, want)
	}
	must(t, d.Adopt(t.Context()))
	if changes, err := d.Changes(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("after: %v, %v", changes, err)
	}
	// A token that was stripped is made anew by who has the key of format 2.
	forge(t, d.Path, bothCopies, 0, func(doc map[string]any) { doc["tokens"] = map[string]any{} })
	if err := d.get(t.Context()); !errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("stripped: %v", err)
	}
	must(t, d.Adopt(t.Context()))
	if changes, err := d.Changes(t.Context()); err != nil || len(changes) != 0 {
		t.Errorf("after: %v, %v", changes, err)
	}
	// What may never be used is not adopted.
	forge(t, d.Path, bothCopies, 0, encryption("cipher_null-ecb"))
	before := head(t, d)
	if _, err := d.Changes(t.Context()); !errors.Is(err, luks2.ErrForbidden) {
		t.Errorf("Changes: %v", err)
	}
	if err := d.Adopt(t.Context()); !errors.Is(err, luks2.ErrForbidden) || !bytes.Equal(before, head(t, d)) {
		t.Errorf("Adopt: %v", err)
	}
}
