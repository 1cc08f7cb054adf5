package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// firstInherited is the first descriptor that systemd passes on (SD_LISTEN_FDS_START in
// sd_listen_fds(3)).
const firstInherited = 3

// Inherited are the listening sockets that systemd made for this process. Clients that connect
// before the process answers, or while it is restarted, wait and are not refused.
type Inherited struct{ listeners map[string]net.Listener }

// Inherit takes the sockets over, by their paths. Without systemd there are none. It is called
// once, before any file is opened.
func Inherit(env func(string) string) (*Inherited, error) {
	in := &Inherited{listeners: map[string]net.Listener{}}
	if env("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return in, nil // none, or those of another process
	}
	n, err := strconv.Atoi(env("LISTEN_FDS"))
	if err != nil || n < 0 {
		return nil, fmt.Errorf("sockets from systemd: LISTEN_FDS=%q is no number", env("LISTEN_FDS"))
	}
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		syscall.CloseOnExec(fd)
		file := os.NewFile(uintptr(fd), "inherited socket")
		l, err := net.FileListener(file) // a copy
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, errors.Join(fmt.Errorf("sockets from systemd: descriptor %d: %w", fd, err), in.Close())
		}
		in.listeners[l.Addr().String()] = l
	}
	return in, nil
}

// Listen is the socket at a path: the inherited one, or one that is made as by Listen.
func (in *Inherited) Listen(ctx context.Context, path string) (net.Listener, error) {
	if l, ok := in.listeners[path]; ok {
		delete(in.listeners, path)
		return l, nil
	}
	return Listen(ctx, path)
}

// Close closes the sockets that nobody listens on.
func (in *Inherited) Close() error {
	var errs []error
	for path, l := range in.listeners {
		errs = append(errs, l.Close())
		delete(in.listeners, path)
	}
	return errors.Join(errs...)
}

// Ready tells systemd that the process answers (sd_notify(3)). Without systemd it does nothing.
func Ready(ctx context.Context, env func(string) string) error {
	path := env("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if name, ok := strings.CutPrefix(path, "@"); ok {
		path = "\x00" + name // abstract
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unixgram", path)
	if err != nil {
		return fmt.Errorf("tell systemd that layervault is ready: %w", err)
	}
	_, err = conn.Write([]byte("READY=1"))
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("tell systemd that layervault is ready: %w", err)
	}
	return nil
}
