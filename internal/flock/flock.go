// Package flock takes the kernel's locks on open files.
//
// A lock belongs to the open file, not to the process: two goroutines that open the same file
// keep each other off as two processes do. It ends when the file is closed, so no crash leaves
// one behind. Other programs see the locks: Lock and TryLock take those of flock(2), LockByte
// those of fcntl(2) (F_OFD_SETLK). The two kinds do not know of each other.
package flock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says how many may hold a lock.
type Mode int

const (
	// Exclusive allows one holder.
	Exclusive Mode = iota
	// Shared allows any number of holders, and no exclusive one. For LockByte the file may be open
	// for reading only.
	Shared
)

// ErrHeld: another open file has the lock.
var ErrHeld = errors.New("held by another process")

// The kernel has no wait that a context could end, so a lock that is taken is tried again: soon
// at first, since most are held for moments, and then less often.
const (
	firstPause = 500 * time.Microsecond
	lastPause  = 20 * time.Millisecond
)

// Lock waits for the lock of an open file, until ctx ends: then the error is ErrHeld and the
// cause of ctx. A lock that is free is taken whatever the state of ctx.
func Lock(ctx context.Context, f *os.File, mode Mode) error {
	return wait(ctx, f, func() error { return try(f, mode) })
}

// Keep takes the exclusive lock of an open file, unless ctx has ended already, and closes the
// file: with the lock, or at once where the lock cannot be had.
func Keep(ctx context.Context, f *os.File) (unlock func(), err error) {
	if err = ctx.Err(); err == nil {
		err = Lock(ctx, f, Exclusive)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// TryLock takes the lock of an open file if it is free, and otherwise returns ErrHeld.
func TryLock(f *os.File, mode Mode) error {
	if err := try(f, mode); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// LockByte waits as Lock does, for one byte of an open file. The byte need not exist. Locks of
// different bytes are independent.
func LockByte(ctx context.Context, f *os.File, mode Mode, offset int64) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset, Len: 1}
	if mode == Shared {
		lock.Type = unix.F_RDLCK
	}
	return wait(ctx, f, func() error {
		return again(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock) })
	})
}

func try(f *os.File, mode Mode) error {
	how := unix.LOCK_EX
	if mode == Shared {
		how = unix.LOCK_SH
	}
	return again(func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
}

// again repeats a call that a signal broke off, and turns the words of the kernel for a lock
// that is taken into ErrHeld.
func again(call func() error) error {
	for {
		switch err := call(); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES): // EWOULDBLOCK is EAGAIN
			return ErrHeld
		default:
			return err
		}
	}
}

func wait(ctx context.Context, f *os.File, try func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := try()
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrHeld) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w: %w", f.Name(), ErrHeld, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
