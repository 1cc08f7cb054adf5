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

// An operation on a volume, in any process, locks one byte of the lock file: the one at the
// hash of the volume's name. The lock belongs to an open file description, so it ends with
// the process, works between goroutines too, and needs no file for each volume. Two names
// with one hash only wait for each other.

// lockName waits for the lock of a volume, or until ctx ends. The returned function
// unlocks.
func (s *Store) lockName(ctx context.Context, name string) (unlock func(), err error) {
	return s.lockByte(ctx, keylock.Offset(name), name)
}

func (s *Store) lockByte(ctx context.Context, offset int64, what string) (unlock func(), err error) {
	flags, mode := os.O_RDWR|os.O_CREATE, flock.Exclusive
	if s.readOnly {
		// A file that cannot be written only has read locks. They exclude a process that has
		// the disk mounted for writing elsewhere.
		flags, mode = os.O_RDONLY, flock.Shared
	}
	f, err := s.state.OpenFile(lockFile, flags, 0o600)
	if s.readOnly && errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no process ever locked a volume here, and the disk is read-only
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
