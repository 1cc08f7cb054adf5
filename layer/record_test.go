package layer_test

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"layervault/internal/durable"
	"layervault/layer"
	"layervault/layer/layertest"
)

// frozen are records as earlier versions wrote them, never to be edited: a
// layer.json that was once written must be readable for ever.
var frozen = map[string]layer.Record{
	"v1-fresh.json": {
		Version: 1, ID: "f0", Parent: "b0", Kind: layer.Fresh, Owner: "6a2f3c1e-0b64-4f0e-9a53-0d8b8b7a1c11",
		Created: time.Date(2026, 11, 21, 21, 0, 0, 123e6, time.UTC),
	},
	"v1-writable.json": {
		Version: 1, ID: "w0-init", Parent: "s0", Kind: layer.Writable, ReadWrite: true, SizeLimit: 20 << 30,
		Created: time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC),
	},
	"v1-sealed.json": {
		Version: 1, ID: "s0", Kind: layer.Sealed, Size: 4242, UUID: "0b7c5a3e-7f0e-4c3a-9f43-3f0f6f5e2d10",
		Created: time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC),
	},
}

// The records of version 2, authenticated by layertest.Keys.
func init() {
	for name, r := range maps.Clone(frozen) {
		r.Version = 2
		switch r.Kind {
		case layer.Fresh:
			r.MAC = "f76ed6c745696b3036e0aef34719ac9cdfeba02536333aebbad6089376a464af"
		case layer.Writable:
			r.UUID, r.ParentUUID = "9d1f0a52-52b6-4f3a-8d0e-5f0c2b7a6e41", frozen["v1-sealed.json"].UUID
			r.MAC = "b483716620c285cf672db58600c770ca94e3c333e1013aa1b2f62056465553ce"
		case layer.Sealed:
			r.MAC = "eae261e38e296b8f958753dccaa126c7daf0fb68685d41b2cf57b437a7114fc8"
		}
		frozen[strings.Replace(name, "v1", "v2", 1)] = r
	}
}

// The records of version 3: those of layers with a state.
func init() {
	writable, view := frozen["v2-writable.json"], frozen["v2-fresh.json"]
	writable.Version, writable.Name, writable.State = 3, "default/7/sha256:0f3c", layer.Committed
	writable.MAC = "4024b2b4e67a929b7450559c9c05e614fe8117209ab5aa905a437cc32e798edf"
	view.Version, view.Name, view.State = 3, "default/8/view", layer.Viewed
	view.MAC = "0f73b71b1843d802c960ea4637476c44f7d19fd4424b992a20c25668a939a9ea"
	frozen["v3-writable.json"], frozen["v3-fresh.json"] = writable, view
}

// The records of version 4: those of layers that were sealed anew.
func init() {
	plain := frozen["v2-sealed.json"]
	plain.Version, plain.Replaces = 4, "5c0a1f6e-3a55-4b0e-8c39-2f1d7f0a9b64"
	named := plain
	plain.MAC = "d82a8052b2306067d00cfad98a298a7f8e575f5e8151857d1005eff157153e9d"
	named.Name, named.State = "default/9/sha256:77aa", layer.Committed
	named.MAC = "aaecd8b2ab507e2ecd74e6ac6f09804366f243e8272025a7fe8d27fa5c964ca2"
	frozen["v4-sealed.json"], frozen["v4-named.json"] = plain, named
}

func TestFrozenRecords(t *testing.T) {
	for name, want := range frozen {
		data, err := os.ReadFile(filepath.Join("testdata/records", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := layer.DecodeRecord(want.ID, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if got.Version != 1 {
			if err := got.Authentic(layertest.Keys{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := got.Authentic(layertest.Keys{Other: "x"}); !errors.Is(err, layer.ErrForged) {
				t.Errorf("%s, another vault: %v", name, err)
			}
			if got, err = got.Seal(layertest.Keys{}); err != nil {
				t.Fatal(err)
			}
		}
		again, err := got.Encode()
		if err != nil || string(again) != string(data) {
			t.Errorf("%s is written back as\n%s(%v)", name, again, err)
		}
	}
}

func TestDamagedRecords(t *testing.T) {
	good, err := os.ReadFile("testdata/records/v1-sealed.json")
	if err != nil {
		t.Fatal(err)
	}
	good2, err := os.ReadFile("testdata/records/v2-sealed.json")
	if err != nil {
		t.Fatal(err)
	}
	good3, err := os.ReadFile("testdata/records/v3-writable.json")
	if err != nil {
		t.Fatal(err)
	}
	good4, err := os.ReadFile("testdata/records/v4-sealed.json")
	if err != nil {
		t.Fatal(err)
	}
	good3 = bytes.Replace(good3, []byte(`"w0-init"`), []byte(`"s0"`), 1)
	good3 = bytes.Replace(good3, []byte(`"parent": "s0"`), []byte(`"parent": "b0"`), 1)
	for name, data := range map[string]string{
		"empty":           "",
		"cut short":       string(good[:len(good)/2]),
		"not JSON":        "layer",
		"trailing":        string(good) + "{}",
		"other id":        strings.Replace(string(good), `"s0"`, `"s1"`, 1),
		"newer":           strings.Replace(string(good), `"version": 1`, `"version": 5`, 1),
		"no code":         strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"code in v1":      strings.Replace(string(good), `"kind"`, `"mac": "`+strings.Repeat("0f", 32)+`", "kind"`, 1),
		"odd code":        strings.Replace(string(good2), `"mac": "`, `"mac": "A`, 1),
		"short code":      strings.Replace(string(good2), `"mac": "`, `"mac": "", "more": "`, 1),
		"parent's UUID":   strings.Replace(string(good2), `"kind"`, `"parent_uuid": "x", "kind"`, 1),
		"fresh + UUID":    strings.Replace(string(good2), `"sealed"`, `"fresh"`, 1),
		"version 0":       strings.Replace(string(good), `"version": 1`, `"version": 0`, 1),
		"unknown kind":    strings.Replace(string(good), `"sealed"`, `"melted"`, 1),
		"unknown field":   strings.Replace(string(good), `"kind"`, `"more": 1, "kind"`, 1),
		"negative size":   strings.Replace(string(good), `4242`, `-1`, 1),
		"no UUID":         strings.Replace(string(good), `"uuid"`, `"owner"`, 1),
		"own parent":      strings.Replace(string(good), `"kind"`, `"parent": "s0", "kind"`, 1),
		"bad parent":      strings.Replace(string(good), `"kind"`, `"parent": "../x", "kind"`, 1),
		"writable+size":   strings.Replace(string(good), `"sealed"`, `"writable"`, 1),
		"v3, no state":    strings.Replace(string(good2), `"version": 2`, `"version": 3`, 1),
		"state in v2":     strings.Replace(string(good2), `"kind"`, `"name": "x", "state": "active", "kind"`, 1),
		"only a name":     strings.Replace(string(good2), `"kind"`, `"name": "x", "kind"`, 1),
		"unknown state":   strings.Replace(string(good3), `"committed"`, `"melted"`, 1),
		"no name":         strings.Replace(string(good3), `"default/7/sha256:0f3c"`, `""`, 1),
		"view + image":    strings.Replace(string(good3), `"committed"`, `"view"`, 1),
		"v4 as v2":        strings.Replace(string(good4), `"version": 4`, `"version": 2`, 1),
		"v4, nothing":     strings.Replace(string(good4), `"replaces"`, `"owner"`, 1),
		"replaces itself": strings.Replace(string(good4), `5c0a1f6e-3a55-4b0e-8c39-2f1d7f0a9b64`, `0b7c5a3e-7f0e-4c3a-9f43-3f0f6f5e2d10`, 1),
		"bad replaces":    strings.Replace(string(good4), `5c0a1f6e-3a55-4b0e-8c39-2f1d7f0a9b64`, `../x`, 1),
		"v4 + writable":   strings.Replace(strings.Replace(string(good4), `"sealed"`, `"writable"`, 1), `"size": 4242,`, ``, 1),
		"number as id":    strings.Replace(string(good), `"s0"`, `0`, 1),
		"array":           "[" + string(good) + "]",
		"null":            "null",
		"wrong time":      strings.Replace(string(good), "2026-11", "never", 1),
		"huge size":       strings.Replace(string(good), `4242`, `99999999999999999999`, 1),
		"zero bytes":      string(make([]byte, 100)),
		"duplicate kind":  strings.Replace(string(good), `"kind": "sealed"`, `"kind": "sealed", "kind": "x"`, 1),
	} {
		if r, err := layer.DecodeRecord("s0", []byte(data)); !errors.Is(err, layer.ErrDamaged) {
			t.Errorf("%s: %+v, error %v", name, r, err)
		}
	}
}

// What a reader takes, a writer can write back: FuzzRecord found an owner of 3,000 bytes that are
// no UTF-8, of which JSON makes three times as many.
func TestRecordStaysReadable(t *testing.T) {
	r := layer.Record{
		ID: strings.Repeat("i", 128), Parent: strings.Repeat("p", 128), Kind: layer.Sealed, ReadWrite: true,
		SizeLimit: math.MaxInt64, Size: math.MaxInt64, UUID: strings.Repeat("u", 64), ParentUUID: strings.Repeat("v", 64), Replaces: strings.Repeat("w", 64),
		Owner: strings.Repeat("o", 64), Name: strings.Repeat("<", 512), State: layer.Committed,
		Created: time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.FixedZone("", 3600)),
	}
	encode := func(r layer.Record) []byte {
		sealed, err := r.Seal(layertest.Keys{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := sealed.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if _, err := layer.DecodeRecord(r.ID, encode(r)); err != nil {
		t.Errorf("the longest record, %d bytes: %v", len(encode(r)), err)
	}
	for name, longer := range map[string]func(*layer.Record){
		"UUID":          func(r *layer.Record) { r.UUID += "u" },
		"parent's UUID": func(r *layer.Record) { r.ParentUUID += "v" },
		"replaced":      func(r *layer.Record) { r.Replaces += "w" },
		"owner":         func(r *layer.Record) { r.Owner += "o" },
		"no UTF-8":      func(r *layer.Record) { r.Owner = "\xf4" },
		"name":          func(r *layer.Record) { r.Name += "n" },
	} {
		bad := r
		longer(&bad)
		bad.Created = bad.Created.UTC().Truncate(time.Second) // room for one byte more
		if _, err := layer.DecodeRecord(r.ID, encode(bad)); !errors.Is(err, layer.ErrDamaged) || errors.Is(err, durable.ErrTooLong) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRecord wants no input to crash the reader, what it takes to be written back to the same
// meaning, and nothing but the frozen records to be authentic.
func FuzzRecord(f *testing.F) {
	for name := range frozen {
		data, err := os.ReadFile(filepath.Join("testdata/records", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frozen[name].ID, data)
	}
	f.Add("x", []byte(`{"version":1,"id":"x","kind":"fresh","created":"0001-01-01T00:00:00Z"}`))
	data, err := os.ReadFile("testdata/records/v3-writable.json")
	if err != nil {
		f.Fatal(err)
	}
	// encoding/json knows a field in capitals too.
	f.Add("w0-init", bytes.Replace(data, []byte(`"mac"`), []byte(`"maC"`), 1))
	f.Add("x", []byte(`{"version":1,"id":"x","kind":"fresh","owner":"`+strings.Repeat("\xf4", 3000)+`","created":"0001-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		r, err := layer.DecodeRecord(id, data)
		if err != nil {
			if !errors.Is(err, layer.ErrDamaged) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		// Only what was written with the key passes for it, in whatever way it is spelled.
		written := slices.ContainsFunc(slices.Collect(maps.Values(frozen)), func(f layer.Record) bool { return cmp.Equal(f, r) })
		if r.Version != 1 && !written && r.Authentic(layertest.Keys{}) == nil {
			t.Errorf("authentic, and not written with the key: %+v", r)
		}
		sealed, err := r.Seal(layertest.Keys{})
		if err != nil || sealed.Authentic(layertest.Keys{}) != nil {
			t.Errorf("sealed: %v", err)
		}
		out, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := layer.DecodeRecord(id, out)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Error(d)
		}
	})
}

func TestValidateID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, strings.Repeat("0123456789abcdef", 4): true, strings.Repeat("a", 64) + "-init": true,
		"jx2x0jmbgk4ir8c3jzevlmd2d": true, "A.b_c-1": true, strings.Repeat("x", 128): true, "a..b": true,
		"": false, ".": false, "..": false, ".tmp-x": false, "a/b": false, "a\\b": false, "a\x00": false, "a\nb": false,
		"\x1b[31m": false, "a b": false, "ü": false, "a:b": false, strings.Repeat("x", 129): false,
	} {
		if err := layer.ValidateID(id); (err == nil) != ok || err != nil && !errors.Is(err, layer.ErrBadID) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
