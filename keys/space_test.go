package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/keys"
	"layervault/keys/versatile"
)

// On a full disk the ring still opens, and a change fails without touching it.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	p := versatile.New(filepath.Join(root, "versatile.key"))
	ring, key, err := keys.Create(t.Context(), filepath.Join(root, "vault", keys.FileName), p, "", nil, keys.Format2, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	before := read(t, ring.Path())
	if err := os.WriteFile(filepath.Join(root, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if _, err := ring.Enroll(t.Context(), key, p, ""); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	for _, path := range []string{ring.Path(), ring.Path() + ".bak"} {
		if !bytes.Equal(read(t, path), before) {
			t.Errorf("%s changed", path)
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "vault", ".tmp-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mustOpen(t, ring.Path(), p, key)
	if err := os.Remove(ring.Path()); err != nil { // one copy left, no room to mend it
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "filler2"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	mustOpen(t, ring.Path(), p, key)
}

// What a crash left in the middle of a write goes at the next one.
func TestLeftoversAreSwept(t *testing.T) {
	ring, key, p := vault(t)
	left := filepath.Join(filepath.Dir(ring.Path()), ".tmp-keyring.json-123")
	write(t, left, []byte("half a ring"))
	if _, err := ring.Enroll(t.Context(), key, p, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("still there: %v", err)
	}
}
