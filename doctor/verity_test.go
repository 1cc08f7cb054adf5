package doctor

import (
	"strings"
	"testing"

	"layervault/crypt"
)

// The kernel's lacks are essential only where verity=require refuses layers for them.
func TestVerity(t *testing.T) {
	for _, tc := range []struct {
		name    string
		has     bool
		err     error
		sector  int
		verity  crypt.Verity
		verdict Verdict
		words   []string // of detail and fix
	}{
		{"has", true, nil, 4096, crypt.VerityRequire, Good, []string{"hash tree"}},
		{"has not", false, nil, 4096, crypt.VerityPrefer, Warning, []string{"not noticed", "do not open", "CONFIG_DM_VERITY", "dm_verity"}},
		{"has not, required", false, nil, 4096, crypt.VerityRequire, Missing, []string{"refuses every layer", "CONFIG_DM_VERITY", "dm_verity"}},
		{"cannot ask", false, crypt.ErrNoMapper, 4096, crypt.VerityPrefer, Warning, []string{"device-mapper"}},
		{"cannot ask, required", false, crypt.ErrNoMapper, 4096, crypt.VerityRequire, Missing, []string{"device-mapper"}},
		{"small sectors", true, nil, 512, crypt.VerityPrefer, Warning, []string{"not noticed", "sector=4096"}},
		{"small sectors, required", true, nil, 512, crypt.VerityRequire, Missing, []string{"no layer can be imported", "sector=4096"}},
	} {
		f := judgeVerity(tc.has, tc.err, tc.sector, tc.verity)
		if f.Verdict != tc.verdict {
			t.Errorf("%s: %s, want %s", tc.name, f.Verdict, tc.verdict)
		}
		for _, word := range tc.words {
			if !strings.Contains(f.Detail+f.Fix, word) {
				t.Errorf("%s: %q -> %q does not say %q", tc.name, f.Detail, f.Fix, word)
			}
		}
	}
}

func TestEROFS(t *testing.T) {
	if f := judgeEROFS(true); f.Verdict != Good {
		t.Errorf("%+v", f)
	}
	if f := judgeEROFS(false); f.Verdict != Warning || !strings.Contains(f.Detail+f.Fix, "CONFIG_EROFS_FS") || !strings.Contains(f.Detail, "ext4") {
		t.Errorf("%+v", f)
	}
}
