package volume

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever works on a volume, in whatever process, locks one byte of the lock file: the one
// at the hash of the volume's name. It is a lock of an open file description, so it goes
// with the process, works between goroutines too, and leaves no file for each volume. Two
// names of one hash only wait for each other.

// lockPause is how often a taken lock is tried again. There is no blocking call that a
// context could end.
const lockPause = 5 * time.Millisecond

// lockName waits for the lock of a volume, or until ctx ends. The returned function
// unlocks.
func (s *Store) lockName(ctx context.Context, name string) (unlock func(), err error) {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, name)                    // never fails
	return s.lockByte(ctx, int64(hash.Sum64()>>2), name) // an offset is positive
}

func (s *Store) lockByte(ctx context.Context, offset int64, what string) (unlock func(), err error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset, Len: 1}
	mode := os.O_RDWR | os.O_CREATE
	if s.readOnly {
		// A lock for reading keeps off whoever has the disk mounted for writing elsewhere, and
		// is all that a file which cannot be written gives.
		lock.Type, mode = unix.F_RDLCK, os.O_RDONLY
	}
	f, err := s.state.OpenFile(lockFile, mode, 0o600)
	if s.readOnly && errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // nobody ever locked anything here, and nobody can write here now
	}
	if err != nil {
		return nil, fmt.Errorf("lock volume %s: %w", what, err)
	}
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock volume %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for volume %s: %w", what, context.Cause(ctx))
		case <-time.After(lockPause):
		}
	}
}
