package persist

import (
	"path/filepath"
	"testing"
)

// Every directory comes after its parent, once, below the root, and lets in nobody but its owner
// unless somebody must pass.
func TestDirs(t *testing.T) {
	l := Layout{Root: "/p"}
	seen := map[string]bool{"/": true}
	areas := 0
	for _, d := range l.Dirs() {
		if seen[d.Path] || !seen[filepath.Dir(d.Path)] {
			t.Errorf("%s is there twice, or before its parent", d.Path)
		}
		seen[d.Path] = true
		if d.Mode&0o066 != 0 || d.Owner != (Owner{}) || d.For == "" {
			t.Errorf("%+v", d)
		}
		if d.Area != "" {
			areas++
			if d.Mode != 0 || d.Path != l.Area(d.Area) {
				t.Errorf("mount point of %s: %+v", d.Area, d)
			}
		}
	}
	if areas != len(Areas) {
		t.Errorf("%d areas", areas)
	}
	for _, a := range Areas {
		if !IsArea(string(a)) || filepath.Dir(l.AreaImage(a)) != l.AreaImages(Vault) {
			t.Errorf("area %s", a)
		}
	}
	if IsArea("containerd") || IsArea("") || IsArea("case/..") {
		t.Error("names that are no areas")
	}
}

func TestAgents(t *testing.T) {
	agents := DefaultAgents()
	seen := map[Owner]bool{}
	for _, a := range Areas {
		if seen[agents.Of(a)] {
			t.Errorf("%s has the owner of another area", a)
		}
		seen[agents.Of(a)] = true
	}
	if AreaMode(Downloader) != 0o700 || AreaMode(Verifier) != 0o700 || AreaMode(Case) != 0o755 {
		t.Error("modes")
	}
}

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{"ext-imga.img": true, "ext-imgb.img": true, "ext-imgc.img": false, "case": false} {
		if IsReserved(name) != want {
			t.Errorf("%s", name)
		}
	}
}
