// Command activate stands in for systemd's socket units in the guest, which has no systemd.
//
//	activate SOCKET... -- COMMAND [ARGUMENT...]
//
// It listens on the sockets and runs COMMAND with them (sd_listen_fds(3)), and again a second after
// each end, as a unit with Restart=on-failure does, until it gets a SIGTERM, which it passes on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "activate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	dashes := slices.Index(args, "--")
	if dashes < 1 || dashes == len(args)-1 {
		return errors.New("usage: activate SOCKET... -- COMMAND [ARGUMENT...]")
	}
	var sockets []*os.File
	for _, path := range args[:dashes] {
		socket, err := listen(path)
		if err != nil {
			return err
		}
		sockets = append(sockets, socket)
	}
	for ctx.Err() == nil {
		// The shell becomes the command, so its number is that of LISTEN_PID.
		cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, args[dashes+1:]...)...) //nolint:gosec // running it is what the caller asks for
		cmd.Env = append(os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(sockets)))
		cmd.ExtraFiles = sockets
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
		err := cmd.Wait()
		stop()
		fmt.Fprintf(os.Stderr, "activate: %s ended: %v\n", args[dashes+1], err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// listen makes a socket as systemd does: an old file goes first.
func listen(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l.File()
}
