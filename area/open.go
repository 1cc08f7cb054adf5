package area

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/persist"
)

// Open mounts an area at its place, with its owner and mode. An area that is open stays as it
// is, but for those and for its limit (Bound). Errors: ErrAbsent, ErrInTheWay, and those of the
// keys and of package crypt.
func (s *Set) Open(ctx context.Context, a persist.Area) (err error) {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	open, err := s.mounted(a)
	if err != nil {
		return err
	}
	if open {
		dir, err := os.OpenFile(s.cfg.Layout.Area(a), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		return errors.Join(s.own(a, dir), dir.Close(), s.bound(a))
	}
	if _, err := os.Lstat(s.cfg.Layout.AreaImage(a)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open area %s: %w: %s; restore it from a backup, or run layervault persist init for an empty area", a, ErrAbsent, s.cfg.Layout.AreaImage(a))
	}
	if err := s.point(a); err != nil {
		return err
	}
	if err := s.step("point"); err != nil {
		return err
	}
	if err := s.mount(ctx, a); err != nil {
		return fmt.Errorf("open area %s: %w", a, err)
	}
	return s.bound(a)
}

// mount mounts a closed area at its point.
func (s *Set) mount(ctx context.Context, a persist.Area) (err error) {
	private, release, err := mounts.MakeTemp(s.cfg.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := s.devices(a).Mount(ctx, private); err != nil {
		return err
	}
	if err := s.step("private"); err != nil {
		return err
	}
	dir, err := os.OpenFile(filepath.Join(private, crypt.DirDiff), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := s.own(a, dir); err != nil {
		return err
	}
	if err := s.step("owned"); err != nil {
		return err
	}
	if err := mounts.BindDir(dir, s.cfg.Layout.Area(a)); err != nil {
		return err
	}
	return s.step("bound")
}

// own gives an area's folder its owner and mode.
func (s *Set) own(a persist.Area, dir *os.File) error {
	owner := s.cfg.Agents.Of(a)
	return errors.Join(dir.Chown(owner.UID, owner.GID), dir.Chmod(persist.AreaMode(a)))
}

// mounted says whether the area is mounted at its place. Another mount there, or what is no
// directory, is ErrInTheWay.
func (s *Set) mounted(a persist.Area) (bool, error) {
	at := s.cfg.Layout.Area(a)
	// A link is looked at before what is mounted where the link leads.
	if info, err := os.Lstat(at); err == nil && !info.IsDir() {
		return false, fmt.Errorf("area %s: %w: %s is no directory; move it away", a, ErrInTheWay, at)
	}
	mounted, err := mounts.IsMounted(at)
	if err != nil || !mounted {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: at, Err: err}
	}
	number, err := s.devices(a).Opened()
	if err != nil && !errors.Is(err, crypt.ErrNotExist) && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("area %s: %w", a, err)
	}
	if number == 0 || uint64(st.Dev) != number { //nolint:unconvert // 32 bit has another type
		return false, fmt.Errorf("area %s: %w: another file system is mounted at %s; unmount it", a, ErrInTheWay, at)
	}
	return true, nil
}

// point makes the mount point of a closed area, or checks the one that is there: an empty
// directory that nobody may write to.
func (s *Set) point(a persist.Area) error {
	at := s.cfg.Layout.Area(a)
	if mounted, err := s.mounted(a); err != nil || mounted {
		return err
	}
	err := os.Mkdir(at, 0)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the mount point of area %s: %w", a, err)
	}
	dir, err := os.OpenFile(at, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if names, err := dir.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("area %s: %w: %s has files that are not encrypted, such as %s; convert them, or move them away", a, ErrInTheWay, at, names[0])
	} else if err != nil && !isEOF(err) {
		return err
	}
	return seal(dir)
}

// Close unmounts an area. A closed area is no error. ErrInUse names the users.
func (s *Set) Close(ctx context.Context, a persist.Area) error {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	at := s.cfg.Layout.Area(a)
	for {
		open, err := s.mounted(a)
		if err != nil || !open {
			return err
		}
		err = mounts.Unmount(at)
		if errors.Is(err, mounts.ErrBusy) {
			return fmt.Errorf("close area %s: %w: %s", a, ErrInUse, mounts.HoldersOf(at))
		}
		if err != nil {
			return fmt.Errorf("close area %s: %w", a, err)
		}
	}
}
