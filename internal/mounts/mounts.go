// Package mounts is what this program asks the kernel about mounts: whether there is one, to
// bind, to detach, a private place for one, the mount table, and who uses a file system.
//
// Nothing is counted or kept here: every answer is read from the kernel when it is asked for.
// The mount table is read by github.com/moby/sys/mountinfo. Its sister package mount is not
// used: it follows a symbolic link in the place of a mount point, and takes options as text.
package mounts

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ErrBusy: a mount is in use, and was not taken down.
var ErrBusy = errors.New("mount is in use")

// IsMounted says whether a path is a mount point. A path that does not exist is none.
func IsMounted(at string) (bool, error) {
	mounted, err := mountinfo.Mounted(at)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a mount at %s: %w", at, err)
	}
	return mounted, nil
}

// Bind shows a directory at another place. On a read-only file system it is read-only there too.
func Bind(from, at string) error {
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, at, err)
	}
	return nil
}

// BindDir is Bind for an open directory: what its name leads to meanwhile does not matter.
func BindDir(dir *os.File, at string) error {
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", dir.Name(), at, err)
	}
	return nil
}

// Unmount takes down the topmost mount at a path, unless it is in use: ErrBusy. A path that is
// no mount point is no error. It does not follow a symbolic link.
func Unmount(at string) error {
	switch err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); {
	case err == nil || errors.Is(err, unix.EINVAL): // EINVAL: not a mount point
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("unmount %s: %w", at, ErrBusy)
	default:
		return fmt.Errorf("unmount %s: %w", at, err)
	}
}

// Detach takes the topmost mount at a path, with what is mounted below it, out of the mount
// tree. Who uses it keeps it, and the kernel takes it down after the last user. A path that is
// no mount point, or does not exist, is no error. It does not follow a symbolic link.
func Detach(at string) error {
	_, err := detach(at)
	return err
}

// DetachAll detaches whatever is mounted at a path, however many times.
func DetachAll(at string) error {
	for {
		if more, err := detach(at); err != nil || !more {
			return err
		}
	}
}

func detach(at string) (was bool, err error) {
	err = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a mount point (any more)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("unmount %s: %w", at, err)
	}
	return true, nil
}
