package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"layervault/internal/mounts"
	"layervault/volume"
)

// MountAll mounts every disk that can be opened at a folder of its own name below dir, in
// the file's order. What is mounted there already stays. One that fails does not keep the
// others; the error has each.
func (s *Set) MountAll(ctx context.Context, dir string) (mounted []string, err error) {
	var errs []error
	for _, d := range s.file.Disks {
		if !d.Known() {
			continue
		}
		at := filepath.Join(dir, d.Name)
		if err := s.MountHost(ctx, d.Name, at); err != nil {
			errs = append(errs, err)
			continue
		}
		mounted = append(mounted, at)
	}
	return mounted, errors.Join(append(errs, s.bad)...)
}

// MountHost mounts a disk at a path of the host, which is made. Where something is mounted
// already, it must be the disk.
func (s *Set) MountHost(ctx context.Context, name, at string) error {
	if !filepath.IsAbs(at) || filepath.Clean(at) != at {
		return fmt.Errorf("%w: mount point %q is not a clean absolute path", volume.ErrBadName, at)
	}
	d, err := s.usable(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	there, err := mounts.IsMounted(at)
	if err != nil {
		return err
	}
	if !there {
		return s.MountAt(ctx, name, at)
	}
	all, err := s.Inspect()
	if err != nil {
		return err
	}
	for _, st := range all {
		if st.Name == d.Name && slices.Contains(st.Mounts, at) {
			return nil
		}
	}
	return fmt.Errorf("%w: another file system is mounted at %s", volume.ErrBusyPath, at)
}

// Unmount unmounts a disk from a path, or for "" from every mount of it in this mount
// namespace, in the reverse of the order of mounting. volume.ErrInUse names who uses it.
func (s *Set) Unmount(name, at string) error {
	d, err := s.usable(name)
	if err != nil {
		return err
	}
	all, err := s.Inspect()
	if err != nil {
		return err
	}
	var points []string
	for _, st := range all {
		if st.Name == d.Name {
			points = st.Mounts
		}
	}
	if !d.IsCrypt() && at != "" {
		points = []string{at}
	}
	slices.Reverse(points)
	for _, m := range points {
		if at != "" && m != at {
			continue
		}
		err := mounts.Unmount(m)
		if errors.Is(err, mounts.ErrBusy) {
			return fmt.Errorf("%w: disk %s at %s: %s", volume.ErrInUse, d.Name, m, mounts.HoldersOf(m))
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return nil
}

// UnmountAll unmounts what MountAll mounted below dir, the last first.
func (s *Set) UnmountAll(dir string) error {
	if s.bad != nil {
		return s.bad
	}
	var errs []error
	for _, d := range slices.Backward(s.file.Disks) {
		if d.Known() && d.Fault == nil {
			errs = append(errs, s.Unmount(d.Name, filepath.Join(dir, d.Name)))
		}
	}
	return errors.Join(errs...)
}
