package main

import (
	"slices"
	"testing"

	"layervault/advice"
)

// The doors are those of the setting, two without one, and a wrong setting is the user's fault.
func TestDoorSettings(t *testing.T) {
	for doors, want := range map[string][]string{
		"":          {"graph", "volumes"},
		"snapshots": {"snapshots"},
		"windows":   nil,
	} {
		d := doorSettingsOf(func(name string) string { return map[string]string{"doors": doors}[name] })
		err := d.check()
		if want == nil && advice.Status(err) != advice.StatusUsage {
			t.Errorf("%q: %v", doors, err)
		}
		if want != nil && (err != nil || !slices.Equal(d.Open, want)) {
			t.Errorf("%q: %v, %v", doors, d.Open, err)
		}
	}
}
