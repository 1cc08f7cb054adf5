package luks2

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// memFile is an image in memory that cannot grow.
type memFile []byte

func (m memFile) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }
func (m memFile) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(m)) {
		return 0, errors.New("beyond the end")
	}
	return copy(m[off:], p), nil
}
func (m memFile) Sync() error { return nil }

// forge puts the JSON text into both header copies of the image, checksums included.
func forge(t testing.TB, image memFile, text []byte) memFile {
	t.Helper()
	out := memFile(bytes.Clone(image))
	bin, err := decodeBin(image, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(2) {
		raw, err := bin.encode(i*bin.size, [saltLen]byte{}, text)
		if err != nil {
			t.Fatal(err)
		}
		copy(out[i*bin.size:], raw)
	}
	return out
}

func formatted(t testing.TB, kdf KDF) (memFile, []byte) {
	t.Helper()
	image := make(memFile, DefaultDataOffset)
	_, key, err := Format(image, Params{}, kdf, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	return image, key
}

// at finds an object by its path.
func at(doc object, path ...string) object {
	for _, p := range path {
		doc = doc[p].(object)
	}
	return doc
}

func TestMalformed(t *testing.T) {
	const (
		read   = "read"
		unlock = "unlock"
	)
	tests := []struct {
		name string
		edit func(doc object)
		at   string // which step refuses
		want error
	}{
		{"nothing wrong", func(object) {}, "", nil},
		{"no keyslots", func(d object) { delete(d, "keyslots") }, read, ErrDamaged},
		{"no segments", func(d object) { d["segments"] = object{}; at(d, "digests", "0")["segments"] = []any{} }, read, ErrDamaged},
		{"wrong case", func(d object) { d["Config"] = d["config"]; delete(d, "config") }, read, ErrDamaged},
		{"json_size", func(d object) { at(d, "config")["json_size"] = "4096" }, read, ErrDamaged},
		{"json_size as a number", func(d object) { at(d, "config")["json_size"] = number(12288) }, read, ErrDamaged},
		{"keyslots_size over the data", func(d object) { at(d, "config")["keyslots_size"] = "1048576" }, read, ErrDamaged},
		{"keyslots_size huge", func(d object) { at(d, "config")["keyslots_size"] = "18446744073709547520" }, read, ErrDamaged},
		{"slot 32", func(d object) { at(d, "keyslots")["32"] = at(d, "keyslots", "0") }, read, ErrDamaged},
		{"slot 00", func(d object) { at(d, "keyslots")["00"] = at(d, "keyslots", "0") }, read, ErrDamaged},
		{"overlap", func(d object) { at(d, "keyslots")["1"] = at(d, "keyslots", "0") }, read, ErrDamaged},
		{"area in the header", func(d object) { at(d, "keyslots", "0", "area")["offset"] = "4096" }, read, ErrDamaged},
		{"area over the end", func(d object) { at(d, "keyslots", "0", "area")["offset"] = "1040384" }, read, ErrDamaged},
		{"area overflow", func(d object) { at(d, "keyslots", "0", "area")["size"] = "9223372036854775807" }, read, ErrDamaged},
		{"area too small", func(d object) { at(d, "keyslots", "0", "area")["size"] = "4096" }, read, ErrDamaged},
		{"negative offset", func(d object) { at(d, "keyslots", "0", "area")["offset"] = "-32768" }, read, ErrDamaged},
		{"key of 4 GiB", func(d object) { at(d, "keyslots", "0")["key_size"] = json.Number("4294967295") }, read, ErrDamaged},
		{"key of 1.5 bytes", func(d object) { at(d, "keyslots", "0")["key_size"] = json.Number("1.5") }, read, ErrDamaged},
		{"digest of no slot", func(d object) { at(d, "digests", "0")["keyslots"] = []any{"9"} }, read, ErrDamaged},
		{"token of no slot", func(d object) { at(d, "tokens")["0"] = object{"type": "x", "keyslots": []any{"9"}} }, read, ErrDamaged},
		{"requirements not a list", func(d object) { at(d, "config")["requirements"] = object{"mandatory": "x"} }, read, ErrDamaged},
		{"segment in the key slots", func(d object) { at(d, "segments", "0")["offset"] = "512000" }, read, ErrDamaged},
		{"sector size 0", func(d object) { at(d, "segments", "0")["sector_size"] = number(0) }, read, ErrDamaged},
		{"too deep", func(d object) { d["x"] = nest(40) }, read, ErrDamaged},

		{"requirement", func(d object) { at(d, "config")["requirements"] = object{"mandatory": []any{"future"}} }, unlock, ErrUnsupported},
		{"linear segment", func(d object) { at(d, "segments", "0")["type"] = "linear" }, unlock, ErrUnsupported},
		{"integrity", func(d object) { at(d, "segments", "0")["integrity"] = object{"type": "aead"} }, unlock, ErrUnsupported},
		{"detached", func(d object) { at(d, "segments", "0")["offset"] = "0" }, unlock, ErrUnsupported},
		{"salt too short", func(d object) { at(d, "keyslots", "0", "kdf")["salt"] = "AAAA" }, unlock, ErrDamaged},
		{"key of 0 bytes", func(d object) { at(d, "keyslots", "0")["key_size"] = number(0) }, unlock, ErrDamaged},
		{"unknown kdf", func(d object) { at(d, "keyslots", "0", "kdf")["type"] = "scrypt" }, unlock, ErrUnsupported},
		{"unknown hash", func(d object) { at(d, "keyslots", "0", "kdf")["hash"] = "whirlpool" }, unlock, ErrUnsupported},
		{"unknown af hash", func(d object) { at(d, "keyslots", "0", "af")["hash"] = "whirlpool" }, unlock, ErrUnsupported},
		{"3 stripes", func(d object) { at(d, "keyslots", "0", "af")["stripes"] = number(3) }, unlock, ErrUnsupported},
		{"unknown slot cipher", func(d object) { at(d, "keyslots", "0", "area")["encryption"] = "serpent-xts-plain64" }, unlock, ErrUnsupported},
		{"odd slot key", func(d object) { at(d, "keyslots", "0", "area")["key_size"] = number(17) }, unlock, ErrUnsupported},
		{"unknown digest", func(d object) { at(d, "digests", "0")["type"] = "md5" }, unlock, ErrUnsupported},
		{"digest too short", func(d object) { at(d, "digests", "0")["digest"] = "AAAA" }, unlock, ErrDamaged},
		{"slow digest", func(d object) { at(d, "digests", "0")["iterations"] = json.Number("4294967295") }, unlock, ErrTooCostly},
		{"slow kdf", func(d object) { at(d, "keyslots", "0", "kdf")["iterations"] = json.Number("4294967295") }, unlock, ErrTooCostly},
		{"argon2 of 4 TiB", argon("4", "4294967295", "4"), unlock, ErrTooCostly},
		{"argon2 of many passes", argon("4294967295", "65536", "4"), unlock, ErrTooCostly},
		{"argon2 of many lanes", argon("4", "65536", "4294967295"), unlock, ErrTooCostly},
		{"no slot of the data", func(d object) { at(d, "digests", "0")["keyslots"] = []any{} }, unlock, ErrNoKey},
		{"slot to be ignored", func(d object) { at(d, "keyslots", "0")["priority"] = number(0) }, unlock, ErrNoKey},
	}
	image, _ := formatted(t, RandomKeyKDF())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			doc, err := decodeTree(mustText(t, image))
			if err != nil {
				t.Fatal(err)
			}
			tt.edit(doc)
			text, err := encodeTree(doc)
			if err != nil {
				t.Fatal(err)
			}
			forged := forge(t, image, text)
			h, err := Read(forged)
			step := read
			if err == nil {
				step = unlock
				_, _, err = h.Unlock(forged, []byte("x"))
			}
			if !errors.Is(err, tt.want) || (err != nil && step != tt.at) {
				t.Errorf("%s: %v, want %v from %s", step, err, tt.want, tt.at)
			}
		})
	}
}

func argon(time, memory, cpus string) func(object) {
	return func(d object) {
		kdf := at(d, "keyslots", "0", "kdf")
		kdf["type"], kdf["time"], kdf["memory"], kdf["cpus"] = KDFArgon2id, json.Number(time), json.Number(memory), json.Number(cpus)
	}
}

func nest(n int) any {
	var v any = "x"
	for range n {
		v = []any{v}
	}
	return v
}

func mustText(t testing.TB, image memFile) []byte {
	t.Helper()
	text, err := textOf(image[binLen : 16<<10])
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestMalformedText(t *testing.T) {
	image, _ := formatted(t, RandomKeyKDF())
	good := string(mustText(t, image))
	for name, text := range map[string]string{
		"empty":              "",
		"cut off":            good[:len(good)-1],
		"leading space":      " " + good,
		"two objects":        good + good,
		"after a NUL":        good + "\x00x",
		"fills the area":     good[:len(good)-1] + strings.Repeat(" ", 12288-len(good)) + "}",
		"invalid UTF-8":      strings.Replace(good, `"tokens":{}`, `"tokens":{"0":{"type":"`+"\xff"+`","keyslots":[]}}`, 1),
		"a million brackets": strings.Repeat("[", 12000),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(forge(t, image, []byte(text))); !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
		})
	}
}

// FuzzRead gives Read any bytes at all.
func FuzzRead(f *testing.F) {
	image, _ := formatted(f, RandomKeyKDF())
	f.Add([]byte(image[:32<<10]))
	f.Add([]byte(image[:5000]))
	f.Add(append(make([]byte, 16<<10), image[16<<10:32<<10]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Read(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotLUKS2) {
				t.Errorf("untyped error: %v", err)
			}
			return
		}
		h.Slots()
		h.Segment()
	})
}

// FuzzMetadata gives the JSON text a valid checksum, so that it reaches the parser,
// Unlock and a rewrite. Costly but allowed key derivations are left out.
func FuzzMetadata(f *testing.F) {
	for _, kdf := range []KDF{RandomKeyKDF(), {Type: KDFArgon2id, Iterations: 4, MemoryKiB: 32, Parallelism: 1}} {
		image, _ := formatted(f, kdf)
		f.Add(mustText(f, image))
	}
	image, key := formatted(f, RandomKeyKDF())
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 12288 {
			return
		}
		forged := forge(t, image, text)
		h, err := Read(forged)
		if err != nil {
			return
		}
		for _, s := range h.Slots() {
			if s.KDF.Iterations > 1000 || s.KDF.MemoryKiB > 1024 {
				return
			}
		}
		if len(h.meta.digests) > 0 && h.meta.digests[0].iterations > 1000 {
			return
		}
		h.Unlock(forged, []byte("x"))
		if _, err := h.SetToken(forged, -1, json.RawMessage(`{"type":"fuzz","keyslots":[]}`)); err != nil {
			return
		}
		again, err := Read(forged)
		if err != nil || again.NeedsRepair() {
			t.Fatalf("our own rewrite is refused: %v", err)
		}
		if slot, err := again.AddSlot(forged, key, []byte("y"), RandomKeyKDF()); err == nil {
			if _, err := again.UnlockSlot(forged, slot, []byte("y")); err != nil {
				t.Fatalf("our own slot does not open: %v", err)
			}
		}
	})
}
