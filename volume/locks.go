package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"layervault/internal/flock"
	"layervault/internal/keylock"
)

// Whoever works on a volume, in whatever process, locks one byte of the lock file: the one
// at the hash of the volume's name. It is a lock of an open file description, so it goes
// with the process, works between goroutines too, and leaves no file for each volume. Two
// names of one hash only wait for each other.

// lockName waits for the lock of a volume, or until ctx ends. The returned function
// unlocks.
func (s *Store) lockName(ctx context.Context, name string) (unlock func(), err error) {
	return s.lockByte(ctx, keylock.Offset(name), name)
}

func (s *Store) lockByte(ctx context.Context, offset int64, what string) (unlock func(), err error) {
	flags, mode := os.O_RDWR|os.O_CREATE, flock.Exclusive
	if s.readOnly {
		// A lock for reading keeps off whoever has the disk mounted for writing elsewhere, and
		// is all that a file which cannot be written gives.
		flags, mode = os.O_RDONLY, flock.Shared
	}
	f, err := s.state.OpenFile(lockFile, flags, 0o600)
	if s.readOnly && errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // nobody ever locked anything here, and nobody can write here now
	}
	if err != nil {
		return nil, fmt.Errorf("lock volume %s: %w", what, err)
	}
	if err := flock.LockByte(ctx, f, mode, offset); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("wait for volume %s: %w", what, err)
	}
	return func() { _ = f.Close() }, nil
}
