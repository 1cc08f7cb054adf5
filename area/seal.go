package area

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// seal makes an empty directory one that nobody writes to: mode 0000, and immutable, because
// root is not asked for modes. A file system without that flag, or a process that may not set
// it, leaves the mode alone to do it.
func seal(dir *os.File) error {
	flags, err := unix.IoctlGetInt(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&unix.STATX_ATTR_IMMUTABLE != 0 {
		return nil // sealed already, and no mode can be changed
	}
	if err := errors.Join(dir.Chown(0, 0), dir.Chmod(0)); err != nil {
		return err
	}
	if err == nil {
		_ = unix.IoctlSetPointerInt(int(dir.Fd()), unix.FS_IOC_SETFLAGS, flags|unix.STATX_ATTR_IMMUTABLE)
	}
	return nil
}

// Unseal takes the flag off a mount point, so that it can be removed. For tests, and for whoever
// takes the vault apart.
func Unseal(at string) error {
	dir, err := os.OpenFile(at, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	flags, err := unix.IoctlGetInt(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&unix.STATX_ATTR_IMMUTABLE == 0 {
		return nil // the file system has none
	}
	return unix.IoctlSetPointerInt(int(dir.Fd()), unix.FS_IOC_SETFLAGS, flags&^unix.STATX_ATTR_IMMUTABLE)
}
