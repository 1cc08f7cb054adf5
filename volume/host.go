package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// MountAt mounts a volume at a path of the host, which is made if it is not there. Where
// the volume is mounted already, nothing changes.
func (s *Store) MountAt(ctx context.Context, name, at string) error {
	if !filepath.IsAbs(at) || filepath.Clean(at) != at {
		return fmt.Errorf("%w: mount point %q is not a clean absolute path", ErrBadName, at)
	}
	if strings.HasPrefix(at+"/", filepath.Clean(s.cfg.Mounts)+"/") {
		return fmt.Errorf("%w: %s is reserved for docker", ErrBusyPath, s.cfg.Mounts)
	}
	v, unlock, err := s.lockToUse(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := s.place(ctx, v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	mounted, err := mounts.IsMounted(at)
	if err != nil {
		return err
	}
	if mounted {
		here, err := s.HostMounts(v)
		if err != nil {
			return err
		}
		if slices.Contains(here, at) {
			return nil
		}
		return fmt.Errorf("%w: another file system is mounted at %s", ErrBusyPath, at)
	}
	err = s.withContent(ctx, v, p, func(content *os.File) error {
		return s.bindRestricted(content, at, hostFlags(v.Options))
	})
	if s.readOnly && errors.Is(err, unix.EROFS) {
		err = fmt.Errorf("%w: %w", ErrUnclean, err)
	}
	if err != nil {
		return fmt.Errorf("mount volume %s: %w", v.Name, err)
	}
	return nil
}

// hostFlags are the flags of a person's mount. A writer of the volume, such as root in a
// container, must not become root on the host with a setuid file, or reach the host's disks
// with a device file, unless the volume's mount options have suid or dev.
func hostFlags(o Options) (flags uintptr) {
	words := strings.Split(o.MountOpts, ",")
	if !slices.Contains(words, "suid") {
		flags |= unix.MS_NOSUID
	}
	if !slices.Contains(words, "dev") {
		flags |= unix.MS_NODEV
	}
	return flags
}

// bindRestricted is bind with additional flags that hold from the first moment: a bind mount
// has the flags of its source, so they are set on a private mount first.
func (s *Store) bindRestricted(content *os.File, at string, flags uintptr) (err error) {
	private, release, err := mounts.MakeTemp(s.cfg.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := mounts.BindDir(content, private); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(private, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: private, Err: err}
	}
	// These have the same values in statfs(2) as in mount(2); a bind mount's times follow
	// relatime unless it says otherwise.
	kept := uintptr(st.Flags) & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
	if err := unix.Mount("", private, "", unix.MS_REMOUNT|unix.MS_BIND|kept|flags, ""); err != nil {
		return fmt.Errorf("restrict the mount of %s: %w", content.Name(), err)
	}
	dir, err := os.Open(private)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return mounts.BindDir(dir, at)
}

// UnmountHost unmounts a volume from the host: from the path at, or for "" from everywhere
// a person mounted it, in the reverse of the order of mounting. Not mounted is no error.
// ErrInUse names the users.
func (s *Store) UnmountHost(ctx context.Context, name, at string) error {
	v, unlock, err := s.lockAny(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	points, err := s.HostMounts(v)
	if err != nil {
		return err
	}
	slices.Reverse(points)
	for _, m := range points {
		if at != "" && m != at {
			continue
		}
		err := mounts.Unmount(m)
		if errors.Is(err, mounts.ErrBusy) {
			return fmt.Errorf("%w: %s at %s: %s", ErrInUse, v.Name, m, mounts.HoldersOf(m))
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// HostMounts lists where a volume is mounted, in this mount namespace and not for docker,
// in the order of mounting.
func (s *Store) HostMounts(v Volume) ([]string, error) {
	is, err := s.backing(v).mounts()
	if err != nil || is == nil {
		return nil, err
	}
	infos, err := mounts.List(func(m *mountinfo.Info) bool {
		return is(m) && !strings.HasPrefix(m.Mountpoint, s.cfg.Scratch+"/") && !isDockers(v.ID(), m.Mountpoint)
	})
	return mounts.Points(infos), err
}

// isDockers reports whether a plugin made a mount point for docker. The name decides, because
// the folder has another path outside a managed plugin.
func isDockers(id ID, at string) bool {
	base := filepath.Base(at)
	return base == id.String() || strings.HasPrefix(base, id.String()+"@")
}

// dockersElsewhere lists mounts for docker that are seen here but are not this store's.
func (s *Store) dockersElsewhere(v Volume) ([]string, error) {
	is, err := s.backing(v).mounts()
	if err != nil || is == nil {
		return nil, err
	}
	infos, err := mounts.List(func(m *mountinfo.Info) bool {
		return is(m) && isDockers(v.ID(), m.Mountpoint) && !strings.HasPrefix(m.Mountpoint, s.cfg.Mounts+"/")
	})
	return mounts.Points(infos), err
}

// rootsOf lists the roots of the mounts that is picks, in every mount namespace.
func rootsOf(is func(*mountinfo.Info) bool) ([]string, error) {
	found, err := mounts.Everywhere(is)
	var roots []string
	for _, m := range found {
		roots = append(roots, m.Root)
	}
	slices.Sort(roots)
	return slices.Compact(roots), err
}

// hasSuffixPath reports whether a path contains another as whole path elements.
func hasSuffixPath(whole, tail string) bool {
	return strings.Contains(whole+"/", "/"+tail+"/")
}
