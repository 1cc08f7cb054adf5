package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scratchPrefix begins the name of each folder for a mount that lasts for moments.
const scratchPrefix = "mnt-"

// scratch makes a folder to mount something at. release detaches what is there.
func (s *Store) scratch() (at string, release func() error, err error) {
	if err := os.MkdirAll(s.cfg.Scratch, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the scratch folder: %w", err)
	}
	dir, err := os.MkdirTemp(s.cfg.Scratch, scratchPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make a scratch folder: %w", err)
	}
	lock, err := os.Open(dir) // of the folder, not of what is mounted over it
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("lock a scratch folder: %w", err), os.Remove(dir))
	}
	return dir, func() error {
		err := detach(dir)
		if err == nil {
			err = os.Remove(dir)
		}
		return errors.Join(err, lock.Close())
	}, nil
}

// sweepScratch removes what dead processes left mounted at the private places. Those of
// the living are locked.
func sweepScratch(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, sweepScratchFolder(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

func sweepScratchFolder(path string) error {
	// Without the mount that covers it, the folder is not to be seen; a process that lives
	// holds its lock on it. So what is mounted is moved away only where nobody can be: a
	// mount lasts for moments, and its maker would have removed the folder.
	under, err := openUnderMount(path)
	if err != nil || under == nil {
		return err
	}
	defer func() { _ = under.Close() }()
	if err := unix.Flock(int(under.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err := detach(path); err != nil {
		return err
	}
	return os.Remove(path)
}

// openUnderMount opens a directory itself, not what is mounted over it: through a copy of
// its parent's mount that has no submounts.
func openUnderMount(path string) (*os.File, error) {
	parent, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(path), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return nil, nil // before Linux 5.2: the next reboot sweeps
	}
	if err != nil {
		return nil, fmt.Errorf("look under %s: %w", path, err)
	}
	defer func() { _ = unix.Close(parent) }()
	fd, err := unix.Openat(parent, filepath.Base(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look under %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// detach detaches whatever is mounted at a path, however many times.
func detach(at string) error {
	for {
		err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a mount point (any more)
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
}

// bind shows an open directory at another place.
func bind(dir *os.File, at string) error {
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", dir.Name(), at, err)
	}
	return nil
}
