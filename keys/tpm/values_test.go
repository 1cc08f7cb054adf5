package tpm_test

import (
	"errors"
	"strings"
	"testing"

	"layervault/keys/tpm"
)

func TestValues(t *testing.T) {
	zero := strings.Repeat("00", 32)
	v := tpm.Values{}
	if err := v.AddAll(strings.NewReader("sha256:\n  7 : 0x" + zero + "\n# comment\n\n  11: 0x" + strings.ToUpper(strings.Repeat("ab", 32)) + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := v.Add("4=" + zero); err != nil {
		t.Fatal(err)
	}
	sel, values, err := v.Select("")
	if err != nil || sel.String() != "sha256:4,7,11" || len(values) != 3 || values[2][0] != 0xab {
		t.Errorf("%v, %x, %v", sel, values, err)
	}
	if sel, values, err = v.Select("sha384:7"); err != nil || sel.String() != "sha384:7" || len(values) != 1 {
		t.Errorf("%v, %x, %v", sel, values, err)
	}
	for _, line := range []string{"7=" + zero, "seven", "8=abc", "9", "99999999999999999999=00"} {
		if err := v.Add(line); !errors.Is(err, tpm.ErrBadPolicy) {
			t.Errorf("%q: %v", line, err)
		}
	}
	if _, _, err := v.Select("8"); !errors.Is(err, tpm.ErrBadPolicy) {
		t.Errorf("a PCR without a value: %v", err)
	}
}
