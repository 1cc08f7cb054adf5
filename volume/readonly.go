package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The disk of a dead machine is mounted read-only to rescue its data. The store then only
// reads: it lists volumes, gives their keys, and mounts them read-only. Writes fail with the
// kernel's EROFS.

// ErrUnclean: the volume was in use when its machine died, and its journal cannot be
// replayed on a disk that is read-only.
var ErrUnclean = errors.New("file system was not cleanly unmounted, and its journal cannot be replayed on a read-only disk")

// noState is an empty folder in the scratch folder, used as the store's state if there is
// none.
const noState = "no-state"

// onReadOnlyDisk reports whether a folder is on a read-only file system or mount, without
// writing to it.
func onReadOnlyDisk(dir string) (bool, error) {
	for {
		err := unix.Access(dir, unix.W_OK)
		switch {
		case errors.Is(err, unix.EROFS):
			return true, nil
		case errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir):
			dir = filepath.Dir(dir) // it is made when it is needed
		case err == nil, errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOENT):
			return false, nil // an operation that is not allowed fails later, with its own error
		default:
			return false, &os.PathError{Op: "access", Path: dir, Err: err}
		}
	}
}

// openReadOnly opens the store's existing state. A machine that never had a volume has none;
// an empty folder is used then.
func (s *Store) openReadOnly(dir string) (err error) {
	s.state, err = os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Join(s.cfg.Scratch, noState)
		if err = os.MkdirAll(dir, 0o700); err == nil {
			s.state, err = os.OpenRoot(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("open the volume store: %w", err)
	}
	return nil
}

// prepare makes a place's directory and opens it; on a disk that cannot be written it is
// opened as it is, also that of an earlier boot.
func (s *Store) prepare(p place, root *os.Root) (*os.File, error) {
	if !s.readOnly {
		return p.prepare(root, s.boot)
	}
	content, err := root.Open(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume is empty, it was never mounted: %w", err)
	}
	return content, err
}
