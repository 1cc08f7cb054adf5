package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/advice"
	"layervault/vault/vaulttest"
)

// A backup is tried on the images before it replaces anything.
func TestRestoreTriesTheImages(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 2)
	command := func(want int, args ...string) (out string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		args = append(args, "--persist", dir, "--tpm", "/nonexistent")
		if got := run(t.Context(), args, streams{strings.NewReader(""), io.MultiWriter(&stdout), &stderr}, versatileChosen); got != want {
			t.Fatalf("%v: status %d, want %d: %s", args, got, want, stderr.String())
		}
		return stdout.String() + stderr.String()
	}
	ring := filepath.Join(dir, "vault", "keyring.json")
	lose := func() {
		t.Helper()
		for _, name := range []string{ring, ring + ".bak"} {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	command(0, "key", "backup", before)
	command(0, "key", "rotate")
	command(0, "key", "backup", after)
	lose()
	if out := command(advice.StatusLocked, "key", "restore", before); !strings.Contains(out, "opens none of the images") {
		t.Errorf("told: %s", out)
	}
	if _, err := os.Stat(ring); err == nil {
		t.Fatal("the wrong backup was put in place")
	}
	if out := command(0, "key", "restore", after); !strings.Contains(out, "2 images") {
		t.Errorf("told: %s", out)
	}
	command(advice.StatusInUse, "key", "restore", after)
	lose()
	command(0, "key", "restore", before, "--force")
}
