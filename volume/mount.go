package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
)

// Mount mounts a volume for docker and returns where. Each id is one use of the volume,
// until Unmount takes it back; repeating a Mount changes nothing.
func (s *Store) Mount(ctx context.Context, name, id string) (dir string, err error) {
	v, unlock, err := s.lockVolume(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	p, err := s.place(v)
	if err != nil {
		return "", err
	}
	u, err := s.uses(v.ID())
	if err != nil {
		return "", err
	}
	base := mountDir(v.ID(), p)
	at := filepath.Join(s.cfg.Mounts, base)
	mounted, err := isMounted(at)
	if err != nil {
		return "", err
	}
	if !mounted {
		if u.at(base) > 0 {
			s.log.WarnContext(ctx, "a mounted volume was unmounted by somebody else; mounting it again", "volume", v.Name, "dir", at)
		}
		if err := s.mount(ctx, v, p, at); err != nil {
			return "", fmt.Errorf("mount volume %s: %w", v.Name, err)
		}
	}
	u[id] = use{s.process, base}
	err = s.keepUses(v.ID(), u)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // nobody takes the answer, so nobody would unmount
		delete(u, id)
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
func (s *Store) place(v Volume) (place, error) {
	r, err := s.Revisions()
	if err != nil {
		return place{}, err
	}
	return placeOf(v.Record, r.Current)
}

// mount binds a volume's content to a mount point that it makes.
func (s *Store) mount(ctx context.Context, v Volume, p place, at string) error {
	return s.within(ctx, v, func(fs string, _ Device) error {
		root, err := os.OpenRoot(fs)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		content, err := s.prepare(p, root)
		if err != nil {
			return err
		}
		defer func() { _ = content.Close() }()
		if err := os.MkdirAll(s.cfg.Mounts, 0o711); err != nil {
			return fmt.Errorf("make the folder of mounts: %w", err)
		}
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the mount point: %w", err)
		}
		if err := bind(content, at); err != nil {
			return errors.Join(err, os.Remove(at))
		}
		return nil
	})
}

// Unmount takes one of docker's mounts back; the last one unmounts. An unknown id is no
// error.
func (s *Store) Unmount(ctx context.Context, name, id string) error {
	v, unlock, err := s.lockVolume(ctx, name)
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
	delete(u, id)
	if u.at(was.Dir) == 0 {
		if err := unmountDir(filepath.Join(s.cfg.Mounts, was.Dir)); err != nil {
			return fmt.Errorf("unmount volume %s: %w", v.Name, err)
		}
	}
	return s.keepUses(v.ID(), u)
}

// Mountpoint is where docker's mount of a volume is, "" when there is none.
func (s *Store) Mountpoint(v Volume) (string, error) {
	p, err := s.place(v)
	if errors.Is(err, ErrNoRevision) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	at := filepath.Join(s.cfg.Mounts, mountDir(v.ID(), p))
	mounted, err := isMounted(at)
	if err != nil || !mounted {
		return "", err
	}
	return at, nil
}

// unmountDir detaches a mount of ours and removes its mount point. A process that is in it
// keeps what it has open; nobody finds an empty directory where the volume was.
func unmountDir(at string) error {
	if err := detach(at); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the mount point: %w", err)
	}
	return nil
}

func isMounted(at string) (bool, error) {
	mounted, err := mountinfo.Mounted(at)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a mount at %s: %w", at, err)
	}
	return mounted, nil
}
