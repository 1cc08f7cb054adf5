package recovery

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestDecodeTolerates(t *testing.T) {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = byte(i * 37)
	}
	text := string(encode(raw))
	if len(text) != 8*8+7 {
		t.Fatalf("%q", text)
	}
	for name, in := range map[string]string{
		"as printed":      text,
		"lower case":      strings.ToLower(text),
		"without dashes":  strings.ReplaceAll(text, "-", ""),
		"blanks, newline": " " + strings.ReplaceAll(text, "-", " \n\t") + "\r\n",
		"O and L":         strings.NewReplacer("0", "o", "1", "l").Replace(text),
		"I":               strings.ReplaceAll(text, "1", "I"),
	} {
		got, err := Decode([]byte(in))
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

func badGroups(t *testing.T, text string) []int {
	t.Helper()
	_, err := Decode([]byte(text))
	var bad *BadRecovery
	if !errors.As(err, &bad) || !errors.Is(err, ErrBadRecovery) {
		t.Fatalf("%q: got %v", text, err)
	}
	return bad.Groups
}

// Every wrong character, every swap of neighbours and every swap of two groups is
// found, in the right group: for all positions of one random key.
func TestTyposAreFound(t *testing.T) {
	key := Generate()
	if _, err := Decode(key); err != nil {
		t.Fatal(err)
	}
	for i, c := range key {
		if c == '-' {
			continue
		}
		group := []int{i/9 + 1}
		for _, other := range []byte(alphabet + "U!*") {
			if other == c {
				continue
			}
			typo := bytes.Clone(key)
			typo[i] = other
			if got := badGroups(t, string(typo)); !slices.Equal(got, group) {
				t.Fatalf("%c for %c at %d: groups %v, want %v", other, c, i, got, group)
			}
		}
		if i+1 < len(key) && key[i+1] != '-' && key[i+1] != c {
			typo := bytes.Clone(key)
			typo[i], typo[i+1] = typo[i+1], typo[i]
			if got := badGroups(t, string(typo)); !slices.Equal(got, group) {
				t.Fatalf("swap at %d: groups %v, want %v", i, got, group)
			}
		}
	}
	parts := strings.Split(string(key), "-")
	for i := range parts {
		for j := range i {
			swapped := slices.Clone(parts)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			if got := badGroups(t, strings.Join(swapped, "-")); !slices.Equal(got, []int{j + 1, i + 1}) {
				t.Fatalf("groups %d and %d swapped: %v", j+1, i+1, got)
			}
		}
	}
}

func TestWrongLength(t *testing.T) {
	key := string(Generate())
	for _, in := range []string{"", "-", key[:len(key)-1], key + "0", key + key} {
		if got := badGroups(t, in); len(got) != 0 {
			t.Errorf("%q: groups %v", in, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Generate())
	f.Add([]byte("00000000-00000000"))
	f.Add([]byte("ſÅ"))
	f.Fuzz(func(t *testing.T, text []byte) {
		raw, err := Decode(text)
		if err != nil {
			if !errors.Is(err, ErrBadRecovery) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		again, err := Decode(encode(raw))
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%q: %x, then %x, %v", text, raw, again, err)
		}
	})
}
