package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Heal takes down what an earlier process of ours mounted for docker and nobody uses:
// docker forgot to unmount it, or died. It is for start-up, before docker is answered.
func (s *Store) Heal(ctx context.Context) error {
	entries, err := s.state.Open(mountsDir)
	if err != nil {
		return fmt.Errorf("list docker's mounts: %w", err)
	}
	names, err := entries.Readdirnames(-1)
	if err = errors.Join(err, entries.Close()); err != nil {
		return fmt.Errorf("list docker's mounts: %w", err)
	}
	var errs []error
	for _, name := range names {
		id, err := ParseID(strings.TrimSuffix(name, ".json"))
		if err != nil {
			continue // being written
		}
		errs = append(errs, s.heal(ctx, id))
	}
	return errors.Join(errs...)
}

func (s *Store) heal(ctx context.Context, id ID) error {
	v, unlock, err := s.lockVolume(ctx, id.String())
	if errors.Is(err, ErrNotFound) {
		return s.keepUses(id, nil)
	}
	if err != nil {
		return err
	}
	defer unlock()
	used, err := s.release(ctx, v)
	if err == nil && used {
		s.log.DebugContext(ctx, "a volume is still in use", "volume", v.Name)
	}
	return err
}

// release unmounts what docker has of a volume, and looks whether anybody uses it all the
// same: a container has mounts of its own, which do not go with ours. If so, the mounts
// come back. The volume is locked.
func (s *Store) release(ctx context.Context, v Volume) (used bool, err error) {
	u, err := s.uses(v.ID())
	if err != nil {
		return false, err
	}
	dirs, err := s.ours(u)
	if err != nil {
		return false, err
	}
	if !v.IsImage() {
		// The kernel does not tell who else uses a part of a file system. Docker says when
		// a volume is to go; until then such a mount costs nothing.
		return false, s.keepMounted(v, u)
	}
	dev, err := s.device(v, "")
	if err != nil {
		return false, err
	}
	for _, dir := range dirs {
		if err := detach(filepath.Join(s.cfg.Mounts, dir)); err != nil {
			return false, err
		}
	}
	number, err := dev.Opened()
	if err != nil {
		return false, err
	}
	if number == 0 {
		for _, dir := range dirs {
			if err := unmountDir(filepath.Join(s.cfg.Mounts, dir)); err != nil {
				return false, err
			}
		}
		if len(u) > 0 {
			s.log.InfoContext(ctx, "forgot mounts of docker's that nothing uses", "volume", v.Name, "mounts", len(u))
		}
		return false, s.keepUses(v.ID(), nil)
	}
	for _, dir := range dirs {
		if err := s.remount(ctx, v, dir); err != nil {
			return true, err
		}
	}
	return true, nil
}

// ours lists docker's mount points that are mounted here. A person's command has a mount
// namespace, or a folder of mounts, of its own beside the plugin's: what the plugin mounted
// is not for it to take down, nor to mount a second time.
func (s *Store) ours(u uses) ([]string, error) {
	var here []string
	for _, dir := range u.dirs() {
		mounted, err := isMounted(filepath.Join(s.cfg.Mounts, dir))
		if err != nil {
			return nil, err
		}
		if mounted {
			here = append(here, dir)
		}
	}
	return here, nil
}

// remount mounts again what release took away.
func (s *Store) remount(ctx context.Context, v Volume, dir string) error {
	_, revision, _ := strings.Cut(dir, "@")
	p, err := placeOf(v.Record, revision)
	if err != nil {
		return err
	}
	return s.mount(ctx, v, p, filepath.Join(s.cfg.Mounts, dir))
}

// keepMounted forgets the uses of mount points at which nothing is mounted any more.
func (s *Store) keepMounted(v Volume, u uses) error {
	here, err := s.ours(u)
	if err != nil {
		return err
	}
	for id, one := range u {
		if !slices.Contains(here, one.Dir) {
			delete(u, id)
		}
	}
	return s.keepUses(v.ID(), u)
}

// deviceNumber is a device number as /proc/PID/mountinfo writes it.
func deviceNumber(dev uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
}
