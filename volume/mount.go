package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// Mount mounts a volume for docker and returns where. Each Mount is one use of the volume,
// until an Unmount by the same id takes it back: docker cp mounts a running container's
// volumes once more under that container's ids. An id keeps its place until its last
// Unmount, whatever revision the host runs meanwhile.
//
// A Mount that docker repeats because the answer was lost counts one use too many. It keeps an
// unused volume mounted, until a restart or a removal asks the kernel; one use too few would
// unmount the volume of a running container.
func (s *Store) Mount(ctx context.Context, name, id string) (dir string, err error) {
	v, unlock, err := s.lockVolume(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	u, err := s.uses(v.ID())
	if err != nil {
		return "", err
	}
	p, err := s.placeFor(ctx, v, u, id)
	if err != nil {
		return "", err
	}
	base := mountDir(v.ID(), p)
	at := filepath.Join(s.cfg.Mounts, base)
	mounted, err := mounts.IsMounted(at)
	if err != nil {
		return "", err
	}
	// A mounted volume was authenticated when it was mounted in this boot; it stays usable if
	// the vault was locked since.
	if !mounted {
		if err := s.authenticate(ctx, v, toUse); err != nil {
			return "", err
		}
		if u.at(base) > 0 {
			s.log.WarnContext(ctx, "volume was unmounted by another program; mounting it again", "volume", v.Name, "dir", at)
		}
		if err := s.mount(ctx, v, p, at); err != nil {
			return "", fmt.Errorf("mount volume %s: %w", v.Name, err)
		}
	}
	u.more(id, s.process, base)
	err = s.keepUses(v.ID(), u)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // the answer would be lost, and the volume never unmounted
		u.less(id)
		err = errors.Join(err, s.keepUses(v.ID(), u))
	}
	if err != nil {
		if !mounted {
			err = errors.Join(err, unmountDir(at))
		}
		return "", fmt.Errorf("mount volume %s: %w", v.Name, err)
	}
	return at, nil
}

// place finds where the volume's content is now.
func (s *Store) place(ctx context.Context, v Volume) (place, error) {
	if v.Options.Persistence != Revision || v.Options.Revision != "" {
		return placeOf(v.Record, "")
	}
	r, err := s.authenticRevisions(ctx, v.ownKey())
	if err != nil {
		return place{}, err
	}
	return placeOf(v.Record, r.Current)
}

// placeFor is the place of a docker id: where it has the volume mounted, or else the present
// one.
func (s *Store) placeFor(ctx context.Context, v Volume, u uses, id string) (place, error) {
	if had, ok := u[id]; ok {
		return placeAt(v, had.Dir)
	}
	return s.place(ctx, v)
}

// placeAt is the place that a mount point of mountDir's shows.
func placeAt(v Volume, dir string) (place, error) {
	_, revision, _ := strings.Cut(dir, "@")
	return placeOf(v.Record, revision)
}

// mount binds a volume's content to a mount point that it makes.
func (s *Store) mount(ctx context.Context, v Volume, p place, at string) error {
	return s.withContent(ctx, v, p, func(content *os.File) error {
		if err := s.makeMounts(); err != nil {
			return fmt.Errorf("make the folder of mounts: %w", err)
		}
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the mount point: %w", err)
		}
		if err := mounts.BindDir(content, at); err != nil {
			return errors.Join(err, os.Remove(at))
		}
		return nil
	})
}

// withContent opens the directory of a volume's content for the length of f.
func (s *Store) withContent(ctx context.Context, v Volume, p place, f func(content *os.File) error) error {
	return s.withinRoot(ctx, v, func(root *os.Root) error {
		content, err := s.prepare(p, root)
		if err != nil {
			return err
		}
		defer func() { _ = content.Close() }()
		return f(content)
	})
}

// withinRoot opens a volume's file system for the length of f, which no link leads out of.
func (s *Store) withinRoot(ctx context.Context, v Volume, f func(root *os.Root) error) error {
	return s.backing(v).within(ctx, func(fs string) error {
		root, err := os.OpenRoot(fs)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		return f(root)
	})
}

// mountsMode lets root reach the volumes, and a remapped root, by the group. Other users of
// the host must not reach them, or setuid files in them.
const mountsMode = 0o710

// makeMounts makes the folder of mounts, and closes one that an earlier version made.
func (s *Store) makeMounts() error {
	if err := os.MkdirAll(s.cfg.Mounts, mountsMode); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(s.cfg.Mounts, &st); err != nil {
		return &os.PathError{Op: "stat", Path: s.cfg.Mounts, Err: err}
	}
	if int(st.Gid) != s.cfg.MountsGID {
		if err := os.Chown(s.cfg.Mounts, -1, s.cfg.MountsGID); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 == mountsMode {
		return nil
	}
	return os.Chmod(s.cfg.Mounts, mountsMode)
}

// Unmount takes one of docker's mounts back; the last one unmounts. An unknown id is no
// error.
func (s *Store) Unmount(ctx context.Context, name, id string) error {
	v, unlock, err := s.lockAny(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	u, err := s.uses(v.ID())
	if err != nil {
		return err
	}
	was, known := u[id]
	if !known {
		return nil
	}
	u.less(id)
	if u.at(was.Dir) == 0 {
		if err := unmountDir(filepath.Join(s.cfg.Mounts, was.Dir)); err != nil {
			return fmt.Errorf("unmount volume %s: %w", v.Name, err)
		}
	}
	return s.keepUses(v.ID(), u)
}

// Mountpoint is where docker's mount of a volume is, "" when there is none.
func (s *Store) Mountpoint(v Volume) (string, error) {
	r, err := s.Revisions() // only to look there
	if err != nil {
		return "", err
	}
	p, err := placeOf(v.Record, r.Current)
	if errors.Is(err, ErrNoRevision) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	at := filepath.Join(s.cfg.Mounts, mountDir(v.ID(), p))
	mounted, err := mounts.IsMounted(at)
	if err != nil || !mounted {
		return "", err
	}
	return at, nil
}

// unmountDir detaches a mount and removes its mount point. Processes keep the files that they
// have open; no empty directory is left where the volume was.
func unmountDir(at string) error {
	if err := mounts.DetachAll(at); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the mount point: %w", err)
	}
	return nil
}
