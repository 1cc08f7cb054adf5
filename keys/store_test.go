package keys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A failed write takes the second name away from a file that stays, and leaves it to a
// replaced one, for sweep.
func TestDropOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := keepOld(path)
	if err != nil || old == "" {
		t.Fatalf("%q, %v", old, err)
	}
	if err := dropOld(old, path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second name of a file that stays: %v", err)
	}
	if old, err = keepOld(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path+".new", []byte("new"), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	if err := dropOld(old, path); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(old); err != nil || string(data) != "old" {
		t.Errorf("second name of a replaced file: %q, %v", data, err)
	}
	if err := dropOld("", path); err != nil {
		t.Errorf("a file that was not there before: %v", err)
	}
}
