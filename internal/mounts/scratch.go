package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/internal/flock"
)

// MountTmpfs mounts a tmpfs for directories and symbolic links: it uses hardly any memory.
func MountTmpfs(dir string) error {
	if err := unix.Mount("layervault", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=16m"); err != nil {
		return fmt.Errorf("mount the scratch directory %s: %w", dir, err)
	}
	return nil
}

// MountScratch makes a directory and mounts a private tmpfs over it, replacing any mount
// there. Private, so that mounts below do not propagate to other mount namespaces; a mount of
// its own, so that one lazy unmount removes all mounts that a killed process left below it.
func MountScratch(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the scratch directory: %w", err)
	}
	if err := ReleaseScratch(dir); err != nil {
		return err
	}
	if err := MountTmpfs(dir); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return errors.Join(fmt.Errorf("make the scratch directory %s private: %w", dir, err), ReleaseScratch(dir))
	}
	return nil
}

// ReleaseScratch detaches the mount at dir, with its submounts. Mounts in use elsewhere stay. A
// missing directory is no error.
func ReleaseScratch(dir string) error {
	real, err := filepath.EvalSymlinks(dir) // the directory is a person's choice, and may be a link
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check the scratch directory: %w", err)
	}
	for {
		// Checked first: without privileges, detaching fails even if there is no mount.
		mounted, err := IsMounted(real)
		if err != nil || !mounted {
			return err
		}
		if err := Detach(real); err != nil {
			return err
		}
	}
}

// tempPrefix begins the name of each folder for a mount that lasts for moments.
const tempPrefix = "mnt-"

// MakeTemp makes a folder below dir, which is made too, to mount something at for moments.
// release detaches the mount there, and removes the folder. The folder is locked until then,
// so that SweepTemp leaves it alone.
func MakeTemp(dir string) (at string, release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the scratch folder: %w", err)
	}
	at, err = os.MkdirTemp(dir, tempPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make a scratch folder: %w", err)
	}
	lock, err := os.Open(at) // the folder, not what is mounted over it
	if err == nil {
		err = flock.TryLock(lock, flock.Exclusive)
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("make a scratch folder: %w", err), os.Remove(at))
	}
	return at, func() error {
		err := DetachAll(at)
		if err == nil {
			err = os.Remove(at)
		}
		return errors.Join(err, lock.Close())
	}, nil
}

// SweepTemp removes MakeTemp folders of dead processes below dir, and detaches mounts on
// them. Folders of living processes are locked.
func SweepTemp(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, sweepTemp(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

func sweepTemp(at string) error {
	// A mount hides its folder, and a living process holds the lock on the folder. So the lock
	// is tested below the mount, and the mount is detached only if no process holds the lock.
	under, err := openUnderMount(at)
	if err != nil || under == nil {
		return err
	}
	defer func() { _ = under.Close() }()
	if err := flock.TryLock(under, flock.Exclusive); errors.Is(err, flock.ErrHeld) {
		return nil
	}
	if err := DetachAll(at); err != nil {
		return err
	}
	return os.Remove(at)
}

// openUnderMount opens a directory itself, not the mount over it, through a copy of its
// parent's mount without submounts. The result is nil if the directory is missing, or cannot
// be opened this way.
func openUnderMount(at string) (*os.File, error) {
	parent, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(at), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return nil, nil // before Linux 5.2: the next reboot sweeps
	}
	if err != nil {
		return nil, fmt.Errorf("read the directory under mount %s: %w", at, err)
	}
	defer func() { _ = unix.Close(parent) }()
	fd, err := unix.Openat(parent, filepath.Base(at), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the directory under mount %s: %w", at, err)
	}
	return os.NewFile(uintptr(fd), at), nil
}
