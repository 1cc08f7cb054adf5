// Package mounts is the interface to the kernel's mounts: mount checks, bind, detach,
// private scratch mounts, the mount table, and the users of a file system.
//
// No state is kept: every answer is read from the kernel. The mount table is read by
// github.com/moby/sys/mountinfo. Its sister package mount is not used: it follows a symbolic
// link in the place of a mount point, and takes options as text.
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
		return false, fmt.Errorf("find the mount at %s: %w", at, err)
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

// MakeReadOnly makes one mount read-only. The file system stays as it is: its other mounts keep
// writing.
func MakeReadOnly(at string) error {
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", at, err)
	}
	return nil
}

// BindDir is Bind for an open directory, independent of later changes to its path.
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

// Detach removes the topmost mount at a path, with its submounts, from the mount tree. Current
// users keep it, and the kernel unmounts it after the last user. A path that is no mount
// point, or does not exist, is no error. It does not follow a symbolic link.
func Detach(at string) error {
	_, err := detach(at)
	return err
}

// DetachAll detaches all mounts stacked at a path.
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
