package tpm

import "testing"

func TestParsePCRs(t *testing.T) {
	for in, want := range map[string]string{
		"0-4,6-14":      "sha256:0-4,6-14",
		" 7 ":           "sha256:7",
		"7,7,3-5,4":     "sha256:3-5,7",
		"1,0":           "sha256:0,1",
		"SHA384:0,23":   "sha384:0,23",
		"sha1:0 , 1, 2": "sha1:0-2",
		"none":          "none",
		"NONE":          "none",
	} {
		sel, err := ParsePCRs(in)
		if err != nil || sel.String() != want {
			t.Errorf("%q: got %q, %v; want %q", in, sel, err, want)
		}
		if err := sel.valid(); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{"", ",", "24", "-1", "1-", "4-2", "0-99", "sha256:", "sm3:0", "sha256:none", "0x1", "1;2", "256", "all"} {
		if sel, err := ParsePCRs(in); err == nil {
			t.Errorf("%q was read as %s", in, sel)
		}
	}
}

func FuzzParsePCRs(f *testing.F) {
	for _, s := range []string{DefaultPCRs, "none", "sha384:0,2-4", "4-2", ":", "0-23"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sel, err := ParsePCRs(text)
		if err != nil {
			return
		}
		again, err := ParsePCRs(sel.String())
		if err != nil || again.String() != sel.String() {
			t.Fatalf("%q -> %s -> %s, %v", text, sel, again, err)
		}
	})
}
