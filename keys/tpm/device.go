package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

// DefaultPath is the kernel's resource-managed TPM device: several programs may use
// it at once, and what a killed one left in the TPM is flushed.
const DefaultPath = "/dev/tpmrm0"

const (
	// headerSize is the length of a TPM response header: tag (2), size (4), code (4).
	headerSize = 10
	// maxResponse is more than any TPM sends (TPM_PT_MAX_RESPONSE_SIZE is 4096).
	maxResponse = 8192
	// pollStep is how often a wait for the TPM looks whether ctx has ended.
	pollStep = 100 // milliseconds
)

// device is one open TPM. It implements transport.TPM; commands end with ctx.
type device struct {
	ctx  context.Context
	link io.ReadWriteCloser
	wait func() error // blocks until a response can be read

	// responses are wiped at Close: go-tpm decrypts parameters in place in them.
	responses [][]byte
}

// open connects to path: a character device, or the unix socket of an emulator
// (swtpm). Error: ErrNoTPM.
func open(ctx context.Context, path string) (*device, error) {
	path, err := Locate(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	switch {
	case info.Mode()&fs.ModeSocket != 0:
		return dial(ctx, path)
	case info.Mode()&fs.ModeCharDevice != 0:
		return openDevice(ctx, path)
	default:
		return nil, fmt.Errorf("%w: %s is neither a device nor a socket", ErrNoTPM, path)
	}
}

func dial(ctx context.Context, path string) (*device, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return &device{ctx: ctx, link: stopCloser{conn, stop}, wait: func() error { return nil }}, nil
}

// stopCloser ends the watch on the context together with the connection.
type stopCloser struct {
	net.Conn
	stop func() bool
}

func (c stopCloser) Close() error {
	c.stop()
	return c.Conn.Close()
}

// openDevice opens without blocking, so that the wait for a response can end with
// ctx (asynchronous mode of the kernel's TPM device, since 5.0; older kernels block
// in write, bounded by their own timeouts).
func openDevice(ctx context.Context, path string) (*device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: open %s: %w", ErrNoTPM, path, err)
	}
	wait := func() error {
		for {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, pollStep)
			if n > 0 {
				return nil
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return &device{ctx: ctx, link: rawFd(fd), wait: wait}, nil
}

// rawFd is a descriptor that stays out of Go's poller, which would take the TPM's
// empty reads for the end of the file.
type rawFd int

func (f rawFd) Read(p []byte) (int, error) {
	n, err := unix.Read(int(f), p)
	if n == 0 && err == nil {
		return 0, io.EOF // the device has no response, so it is no TPM or was taken away
	}
	return max(n, 0), err
}
func (f rawFd) Write(p []byte) (int, error) { return unix.Write(int(f), p) }
func (f rawFd) Close() error                { return unix.Close(int(f)) }

// Close releases the TPM. After a cancelled command the kernel's close waits for the
// chip, so that is left to the background.
func (d *device) Close() error {
	for _, r := range d.responses {
		clear(r)
	}
	if d.ctx.Err() != nil {
		go func() { _ = d.link.Close() }()
		return nil
	}
	return d.link.Close()
}

// Send implements transport.TPM. Answers that say "try again" are retried here with
// the same bytes: the TPM did not begin the command, so sessions did not move.
func (d *device) Send(command []byte) ([]byte, error) {
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		response, err := d.exchange(command)
		if err != nil {
			if ctxErr := d.ctx.Err(); ctxErr != nil {
				return nil, fmt.Errorf("TPM timeout: %w", ctxErr)
			}
			return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
		}
		if !tryAgain(binary.BigEndian.Uint32(response[6:])) {
			return response, nil
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-d.ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("TPM is still busy: %w", d.ctx.Err())
		}
	}
}

func (d *device) exchange(command []byte) ([]byte, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.link.Write(command); err != nil {
		return nil, fmt.Errorf("send a command: %w", err)
	}
	if err := d.wait(); err != nil {
		return nil, err
	}
	// One read takes the whole response from the device; a socket may split it.
	response := make([]byte, maxResponse)
	n, err := io.ReadAtLeast(d.link, response, headerSize)
	if err != nil {
		return nil, fmt.Errorf("read a response: %w", err)
	}
	size := int(binary.BigEndian.Uint32(response[2:]))
	if size < headerSize || size > maxResponse || n > size {
		return nil, fmt.Errorf("invalid response size %d bytes", size)
	}
	if _, err := io.ReadFull(d.link, response[n:size]); err != nil {
		return nil, fmt.Errorf("read a response: %w", err)
	}
	d.responses = append(d.responses, response)
	return response[:size], nil
}

// tryAgain knows the warnings after which the same command may be sent again
// (TPM 2.0 part 2, section 6.6.3): YIELDED, TESTING, NV_RATE, RETRY.
func tryAgain(code uint32) bool {
	switch tpm2.TPMRC(code) {
	case tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCRetry:
		return true
	}
	return false
}
