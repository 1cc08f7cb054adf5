// Package socket is the unix socket that a plugin answers on, and what its doors have in common: the
// gate at which requests wait until the vault is open, the shape of requests and answers, and an
// orderly end.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Why a socket cannot be made.
var (
	// ErrInUse: another process answers on it.
	ErrInUse = errors.New("socket is in use")
	// ErrNotSocket: another kind of file is in its place.
	ErrNotSocket = errors.New("plugin socket is another kind of file")
)

// Listen makes the socket at path, mode 0600: dockerd runs as root, and a client of the
// socket can read every layer. A socket file that a killed process left is
// replaced, one that still answers is not.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the plugin socket: %w", err)
	}
	switch conn, err := new(net.Dialer).DialContext(ctx, "unix", path); {
	case err == nil:
		_ = conn.Close() // opened only to detect a running server
		return nil, fmt.Errorf("%w: %s: another layervault is running", ErrInUse, path)
	case errors.Is(err, syscall.ECONNREFUSED):
		// The kernel says the same of any file that is no socket.
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%w: %s", ErrNotSocket, path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("leftover plugin socket: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("plugin socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("plugin socket: %w", err)
	}
	// The directory is root's, so no other user can connect between the two calls.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close() // the first error is the one to tell
		return nil, fmt.Errorf("plugin socket: %w", err)
	}
	return l, nil
}
