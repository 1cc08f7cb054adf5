package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makeRemovable clears the flags that forbid to remove files below a folder: those of chattr
// +i and +a. A container may have set them, and after the removal of the volume nothing else
// clears them. It changes nothing else, follows no links, and does not enter mounts.
func makeRemovable(dir string) error {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && !e.Type().IsRegular() {
			return nil // the flags of others cannot be set
		}
		return clearFlags(at, top.Dev)
	})
}

// clearFlags clears the flags of one file, if it is of the device dev.
func clearFlags(at string, dev uint64) error {
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil // went away, or became a link
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: at, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: at, Err: err}
	}
	if uint64(st.Dev) != dev { //nolint:unconvert // 32 bit has another type
		return fmt.Errorf("%w: something is mounted at %s", ErrInUse, at)
	}
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil // this file system has none
	}
	if err != nil {
		return &os.PathError{Op: "read the flags of", Path: at, Err: err}
	}
	if flags&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) == 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND)); err != nil {
		return fmt.Errorf("%s: %w: %w", at, ErrImmutable, err)
	}
	return nil
}

// removeAll is os.RemoveAll, also for files that forbid it.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	if err := makeRemovable(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// removeAllIn is removeAll for a folder within a root, which no link leads out of.
func removeAllIn(root *os.Root, dir string) error {
	err := root.RemoveAll(dir)
	if err == nil {
		return nil
	}
	f, openErr := root.Open(dir)
	if openErr != nil {
		return err
	}
	err = makeRemovable(fmt.Sprintf("/proc/self/fd/%d/.", f.Fd()))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.RemoveAll(dir)
}
