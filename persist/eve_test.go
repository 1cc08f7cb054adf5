package persist

import "testing"

func TestVolumeNames(t *testing.T) {
	const u = "2cf8f72c-6200-4c94-a8f9-3625fbce7b94"
	for name, want := range map[string][2]bool{ // ours, EVE's
		u + "#0":           {true, false},
		u + "#12":          {true, false},
		u + "#0.qcow2":     {false, true},
		u + "#3.raw":       {false, true},
		u + "#2.container": {false, true},
		"2CF8F72C-6200-4C94-A8F9-3625FBCE7B94#0.iso": {false, true},
		"2CF8F72C-6200-4C94-A8F9-3625FBCE7B94#0":     {false, false},
		u + "#0.luks":                                {false, false},
		u + "#0.raw.bak":                             {false, false},
		u + "#.raw":                                  {false, false},
		u + ".raw":                                   {false, false},
		"." + u + "#0.raw":                           {false, false},
		"lost+found":                                 {false, false},
		"":                                           {false, false},
	} {
		if got := [2]bool{IsVolumeName(name), IsEVEName(name)}; got != want {
			t.Errorf("%q: ours, EVE's: %v, want %v", name, got, want)
		}
	}
}
