// Package socket is the unix socket that a plugin answers on, shared by the doors
// that speak HTTP.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/docker/go-plugins-helpers/sdk"
)

// ErrInUse says that another process answers on the socket.
var ErrInUse = errors.New("socket is in use")

// Listen makes the socket at path, mode 0600: dockerd runs as root, and whoever
// can connect can read every layer. A socket file that a killed process left is
// replaced, one that still answers is not.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("folder of the plugin socket: %w", err)
	}
	switch conn, err := new(net.Dialer).DialContext(ctx, "unix", path); {
	case err == nil:
		_ = conn.Close() // it was opened only to see who is there
		return nil, fmt.Errorf("%w: %s: stop the other layervault first", ErrInUse, path)
	case errors.Is(err, syscall.ECONNREFUSED):
		// The kernel says the same of any file that is no socket.
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("plugin socket: %s is a file that is no socket; choose another --socket", path)
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
	// The folder is root's, so nobody gets in between the two calls.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close() // the first error is the one to tell
		return nil, fmt.Errorf("plugin socket: %w", err)
	}
	return l, nil
}

// Serve answers on l until ctx ends. It then takes no new connection, calls drain
// to let requests under way finish, and closes what connections are left. It
// closes l.
func Serve(ctx context.Context, l net.Listener, h sdk.Handler, drain func() error) error {
	tracked := &listener{Listener: l, conns: map[net.Conn]struct{}{}}
	served := make(chan error, 1)
	go func() { served <- h.Serve(tracked) }()
	select {
	case err := <-served:
		tracked.closeConns()
		return fmt.Errorf("plugin socket: %w", err)
	case <-ctx.Done():
	}
	// Closing the listener also removes the socket file.
	closed := l.Close()
	<-served //nolint:errcheck // only that the listener was closed
	err := drain()
	tracked.closeConns()
	return errors.Join(err, closed)
}

// listener remembers its connections, because sdk.Handler keeps its http.Server,
// and with it the way to shut idle ones down, to itself.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return &conn{Conn: c, forget: func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c)
	}}, nil
}

func (l *listener) closeConns() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close() // the client learns of it by its next read
	}
}

// conn tells its listener when it is closed.
type conn struct {
	net.Conn
	forget func()
}

func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}
