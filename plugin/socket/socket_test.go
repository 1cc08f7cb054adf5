package socket_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"layervault/plugin/socket"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plugins", "l.sock")

	first, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode is %v", info.Mode())
	}

	if _, err := socket.Listen(t.Context(), path); !errors.Is(err, socket.ErrInUse) {
		t.Errorf("a second listener got %v", err)
	}

	// A killed process leaves its socket file behind.
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("over a leftover: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestListenRefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := socket.Listen(t.Context(), path); err == nil {
		_ = l.Close()
		t.Error("a file that is no socket was replaced")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file now holds %q, %v", b, err)
	}
}
