package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"layervault/internal/mounts"
)

// Heal removes unused mounts that an earlier process made for docker: docker did not unmount
// them, or died. It is for start-up, before requests of docker are answered.
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
	v, unlock, err := s.lockAny(ctx, id.String())
	if errors.Is(err, ErrNotFound) {
		return s.keepUses(id, nil)
	}
	if err != nil {
		return err
	}
	defer unlock()
	if v.Damage != nil {
		return nil // its mounts stay, because they could not be made again
	}
	return s.backing(v).heal(ctx)
}

// release unmounts docker's mounts of a volume, and asks the kernel for other users in all
// mount namespaces: a container has mounts of its own, which stay when these are removed. If
// there still is a user after patience, used names the user, and docker's mounts are made
// again. The volume is locked.
func (s *Store) release(ctx context.Context, v Volume, patience time.Duration) (used string, err error) {
	if used, err = s.usedByPeople(v); err != nil || used != "" {
		return used, err
	}
	u, err := s.uses(v.ID())
	if err != nil {
		return "", err
	}
	dirs, err := s.ours(u)
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		if err := mounts.DetachAll(filepath.Join(s.cfg.Mounts, dir)); err != nil {
			return "", err
		}
	}
	used, err = s.settled(ctx, v, patience)
	if err != nil || used != "" {
		for _, dir := range dirs {
			err = errors.Join(err, s.remount(ctx, v, dir))
		}
		return used, err
	}
	for _, dir := range dirs {
		if err := unmountDir(filepath.Join(s.cfg.Mounts, dir)); err != nil {
			return "", err
		}
	}
	if len(u) > 0 {
		s.log.InfoContext(ctx, "removed unused mounts of docker", "volume", v.Name, "mounts", len(u))
	}
	return "", s.keepUses(v.ID(), nil)
}

// settleFor bounds the wait for new mount namespaces: a process that makes one, such as a
// starting container, has all mounts of its parent for some milliseconds, until it unmounts
// them. A second is long compared with that, also on a busy machine, and short for a person
// whose volume is really in use.
const settleFor = time.Second

// settled asks the kernel for users of a volume, until there are none or patience is over.
func (s *Store) settled(ctx context.Context, v Volume, patience time.Duration) (used string, err error) {
	end := time.Now().Add(patience)
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		if used, err = s.backing(v).users(); err != nil || used == "" || time.Now().Add(wait).After(end) {
			return used, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return used, nil
		}
	}
}

// usedByPeople finds mounts that this store did not make, without removing any.
func (s *Store) usedByPeople(v Volume) (used string, err error) {
	if v.Damage != nil {
		return "", nil // its mounts cannot be identified
	}
	at, err := s.HostMounts(v)
	if err != nil {
		return "", err
	}
	elsewhere, err := s.dockersElsewhere(v)
	if at = append(at, elsewhere...); err != nil || len(at) == 0 {
		return "", err
	}
	used = "mounted at " + strings.Join(at, ", ")
	if number, err := s.backing(v).opened(); err == nil && number != 0 {
		used += "; " + mounts.HoldersOfDevice(number)
	}
	return used, nil
}

// ours lists docker's mount points that are mounted here. A command that a person runs has
// another mount namespace, or another folder of mounts, than the plugin: it must neither
// remove nor repeat the plugin's mounts.
func (s *Store) ours(u uses) ([]string, error) {
	var here []string
	for _, dir := range u.dirs() {
		mounted, err := mounts.IsMounted(filepath.Join(s.cfg.Mounts, dir))
		if err != nil {
			return nil, err
		}
		if mounted {
			here = append(here, dir)
		}
	}
	return here, nil
}

// remount makes a mount again that release removed.
func (s *Store) remount(ctx context.Context, v Volume, dir string) error {
	p, err := placeAt(v, dir)
	if err != nil {
		return err
	}
	return s.mount(ctx, v, p, filepath.Join(s.cfg.Mounts, dir))
}

// keepMounted drops the uses of mount points at which nothing is mounted.
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
