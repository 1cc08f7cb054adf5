package authentic_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"layervault/internal/authentic"
)

type vault string

func (v vault) MAC(what string, data []byte) ([]byte, error) {
	if v == "locked" {
		return nil, errors.ErrUnsupported
	}
	mac := hmac.New(sha256.New, []byte(string(v)+what))
	mac.Write(data)
	return mac.Sum(nil), nil
}

type record struct {
	Name string `json:"name"`
	Size int    `json:"size,omitempty"`
	MAC  string `json:"mac,omitempty"`
}

func TestCheck(t *testing.T) {
	code, err := authentic.Sum(vault("a"), "layer", record{Name: "x", Size: 1})
	if err != nil || !authentic.IsCode(code) {
		t.Fatalf("%q, %v", code, err)
	}
	want := hmac.New(sha256.New, []byte("alayer"))
	want.Write([]byte(`{"name":"x","size":1}`)) // as the format says
	if code != hex.EncodeToString(want.Sum(nil)) {
		t.Errorf("code %s", code)
	}
	if err := authentic.Check(vault("a"), "layer", code, record{Name: "x", Size: 1}); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another record": authentic.Check(vault("a"), "layer", code, record{Name: "x", Size: 2}),
		"another kind":   authentic.Check(vault("a"), "volume", code, record{Name: "x", Size: 1}),
		"another tier":   authentic.Check(vault("b"), "layer", code, record{Name: "x", Size: 1}),
		"no code":        authentic.Check(vault("a"), "layer", "", record{Name: "x", Size: 1}),
		"a shorter code": authentic.Check(vault("a"), "layer", code[:32], record{Name: "x", Size: 1}),
	} {
		if !errors.Is(err, authentic.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A locked tier is not a forged record.
	if err := authentic.Check(vault("locked"), "layer", code, record{}); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, authentic.ErrForged) {
		t.Errorf("locked: %v", err)
	}
	if _, err := authentic.Sum(vault("a"), "layer", func() {}); err == nil {
		t.Error("authenticated what is no record")
	}
}

func TestSeal(t *testing.T) {
	r := record{Name: "x", Size: 1, MAC: "an old code"}
	if err := authentic.Seal(vault("a"), "layer", &r, &r.MAC); err != nil {
		t.Fatal(err)
	}
	want, err := authentic.Sum(vault("a"), "layer", record{Name: "x", Size: 1})
	if err != nil || r != (record{"x", 1, want}) {
		t.Errorf("sealed %+v, want the code %s, %v", r, want, err)
	}
	sealed := r
	if err := authentic.Verify(vault("a"), "layer", &r, &r.MAC); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another kind": authentic.Verify(vault("a"), "volume", &r, &r.MAC),
		"another tier": authentic.Verify(vault("b"), "layer", &r, &r.MAC),
	} {
		if !errors.Is(err, authentic.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r != sealed {
		t.Errorf("Verify changed the record to %+v", r)
	}
	for name, forged := range map[string]record{
		"another record": {"y", 1, want}, "no code": {"x", 1, ""}, "a shorter code": {"x", 1, want[:32]}, "another code": {"x", 1, strings.Repeat("00", 32)},
	} {
		if err := authentic.Verify(vault("a"), "layer", &forged, &forged.MAC); !errors.Is(err, authentic.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A locked tier leaves a record without a code, and says nothing about one that has a code.
func TestSealLocked(t *testing.T) {
	r := record{Name: "x", MAC: "an old code"}
	if err := authentic.Verify(vault("locked"), "layer", &r, &r.MAC); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, authentic.ErrForged) || r.MAC != "an old code" {
		t.Errorf("verified %+v: %v", r, err)
	}
	if err := authentic.Seal(vault("locked"), "layer", &r, &r.MAC); !errors.Is(err, errors.ErrUnsupported) || r.MAC != "" {
		t.Errorf("sealed %+v: %v", r, err)
	}
}

func TestIsCode(t *testing.T) {
	good := strings.Repeat("0f", 32)
	for text, want := range map[string]bool{
		good: true, "": false, good[:62]: false, good + "00": false, strings.Repeat("0F", 32): false, strings.Repeat("xy", 32): false,
	} {
		if authentic.IsCode(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}
