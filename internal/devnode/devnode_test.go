package devnode_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/internal/devnode"
)

// A file in the place of the node is named, and left alone.
func TestOpenOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dm-0")
	if err := os.WriteFile(path, []byte("stays"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{true, false} {
		f, err := devnode.Open(path, unix.Mkdev(253, 0), readOnly)
		if err == nil || !strings.Contains(err.Error(), path+" exists and is not device 253:0") {
			t.Errorf("%v, %v", f, err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "stays" {
		t.Errorf("%q, %v", text, err)
	}
}

// A missing node is made where that is allowed. A number without a driver has no device.
func TestOpenMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	dev := unix.Mkdev(240, 7) // for local use
	if f, err := devnode.Open(path, dev, true); err == nil {
		_ = f.Close()
	} else if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return // no capability to make nodes, or /tmp is nodev
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || uint64(st.Rdev) != dev {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := devnode.Open(filepath.Join(t.TempDir(), "missing", "node"), dev, true); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such folder: %v", err)
	}
}
