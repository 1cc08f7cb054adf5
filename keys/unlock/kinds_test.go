package unlock

import (
	"slices"
	"testing"

	"layervault/keys"
)

// What the list's readers rely on.
func TestKinds(t *testing.T) {
	names := map[string]bool{}
	type place struct {
		use  keys.Use
		name string
	}
	flags := map[place]string{}
	faults := map[error]string{}
	seenPerson := false
	for _, k := range Kinds() {
		if k.Name == "" || k.About == "" || k.New == nil || k.Open == nil {
			t.Errorf("%q lacks its name, a line about it, New or Open", k.Name)
		}
		if names[k.Name] {
			t.Errorf("two kinds are named %s", k.Name)
		}
		names[k.Name] = true
		if seenPerson && !k.Person {
			t.Errorf("%s is tried after what needs a person", k.Name)
		}
		seenPerson = seenPerson || k.Person
		for _, f := range k.Flags {
			if f.Name == "" || f.Usage == "" || f.For == 0 {
				t.Errorf("%s: flag %q lacks its name, usage or use", k.Name, f.Name)
			}
			for use := keys.ForSettings; use <= keys.ForReseal; use <<= 1 {
				if f.For&use == 0 {
					continue
				}
				if other := flags[place{use, f.Name}]; other != "" {
					t.Errorf("%s and %s have the same flag --%s", other, k.Name, f.Name)
				}
				flags[place{use, f.Name}] = k.Name
			}
			isNew := func(other keys.Flag) bool { return other.Name == f.New && other.For&keys.ForEnroll != 0 }
			if f.New != "" && !slices.ContainsFunc(k.Flags, isNew) {
				t.Errorf("%s: setting %s stands for --%s, which is no flag of a new slot", k.Name, f.Name, f.New)
			}
		}
		for _, f := range k.Faults {
			if f.Err == nil || faults[f.Err] != "" {
				t.Errorf("%s: fault %v is no error, or also in %s", k.Name, f.Err, faults[f.Err])
			}
			faults[f.Err] = k.Name
		}
		if h := k.Hardware; h != nil && (h.Title == "" || h.Anchor != nil && h.Present == nil) {
			t.Errorf("%s: hardware lacks its title, or remembers a ring and cannot be looked for", k.Name)
		}
	}
}

// A slot of an unknown kind hurts nobody, and says so.
func TestUnknownKind(t *testing.T) {
	cfg := Config{Tier: t.TempDir(), Log: nil}
	slot := keys.Slot{ID: "0", Provider: "magic", Blob: []byte("{}")}
	if _, err := cfg.Again(t.Context(), slot); err == nil {
		t.Error("sealed anew by nobody knows what")
	}
	if SealedByHardware(slot) || len(cfg.Outside([]keys.Slot{slot})) != 0 || len(cfg.Unsteady(slot)) != 0 {
		t.Error("something is known of an unknown kind")
	}
}
