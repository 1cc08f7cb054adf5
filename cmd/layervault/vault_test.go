package main

import (
	"io"
	"strings"
	"testing"

	"layervault/vault/vaulttest"
)

// quietApp is the program below a folder, with nothing of it on the screen.
func quietApp(dir string) *app {
	return &app{streams: streams{strings.NewReader(""), io.Discard, io.Discard}, env: versatileChosen, persist: dir}
}

// finish rotates with the command itself, or finishes a rotation.
func finish(t *testing.T, dir string) {
	t.Helper()
	var stderr strings.Builder
	s := streams{strings.NewReader(""), io.Discard, &stderr}
	if status := run(t.Context(), []string{"key", "rotate", "--persist", dir, "--tpm", "/nonexistent"}, s, versatileChosen); status != 0 {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
}

// The command finishes a rotation that failed at a step.
func TestRotateFinishes(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 2)
	for _, at := range []int{0, 5, 12, 20} {
		old, _ := vaulttest.Open(t, dir)
		b := &vaulttest.Breaking{Left: at, Stop: func() error { return io.ErrUnexpectedEOF }}
		if err := vaulttest.Rotate(t.Context(), dir, b); err == nil {
			t.Fatalf("step %d was not reached", at)
		}
		finish(t, dir)
		key, _ := vaulttest.Open(t, dir)
		vaulttest.CheckImages(t, "finished", dir, key, old, 2)
	}
}

// versatileChosen is the environment of a person whose vaults have slots of software alone.
func versatileChosen(name string) string {
	if name == "key" {
		return "versatile"
	}
	return ""
}
