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
