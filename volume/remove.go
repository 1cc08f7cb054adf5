package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Remove removes a volume with all its generations, the keys of its images first. ErrInUse
// while anything uses it; mounts that docker did not unmount do not count.
//
// By name, only an authentic volume is removed, or a damaged one that is in the tier's
// authentic list. By ID, which is the name of the file, any volume is removed, and only that
// generation: this is for volumes that are refused.
func (s *Store) Remove(ctx context.Context, name string) error {
	v, unlock, err := s.lockAny(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	remove := []Volume{v}
	if v.ID().String() != name || v.Damage == nil {
		if err := s.authenticDamage(ctx, v); err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
		if remove, err = s.generations(ctx, v); err != nil {
			return err
		}
	}
	for _, one := range remove {
		if err := s.remove(ctx, one); err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
	}
	return nil
}

// authenticDamage is authenticate for a volume that is to be removed, and may be damaged:
// then its tier's list must know it.
func (s *Store) authenticDamage(ctx context.Context, v Volume) error {
	if v.Damage == nil {
		return s.authenticate(ctx, v, toChange)
	}
	if !v.Listed {
		return v.refusal()
	}
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil {
		return err
	}
	_, err = s.authenticList(keyTier(v.Options), keys)
	return err
}

// remove removes one generation. The volume is locked, and authentic, or damaged.
func (s *Store) remove(ctx context.Context, v Volume) error {
	if err := s.letGo(ctx, v); err != nil {
		return err
	}
	return s.unlisted(ctx, v, func() error {
		var err error
		if !v.missing {
			err = s.backing(v).destroy(ctx)
		}
		if err == nil {
			err = s.step("destroyed")
		}
		s.catalog.forget(v.Path)
		return err
	})
}

// unlisted removes a volume from its tier's list while destroy destroys it. A crash leaves the
// volume as it was, or a pending entry without a volume, which GC removes.
func (s *Store) unlisted(ctx context.Context, v Volume, destroy func() error) error {
	if !v.Listed {
		return destroy()
	}
	tier := keyTier(v.Options)
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil {
		return err
	}
	mark := func(pending bool) func(l *list) error {
		return func(l *list) error {
			if e := l.find(v.where(), v.ID()); e != nil {
				e.Pending = pending
			}
			return nil
		}
	}
	if err := s.relist(ctx, tier, keys, mark(true)); err != nil {
		return err
	}
	if err := destroy(); err != nil {
		if errors.Is(err, errCrashed) {
			return err
		}
		return errors.Join(err, s.relist(context.WithoutCancel(ctx), tier, keys, mark(false)))
	}
	return s.relist(context.WithoutCancel(ctx), tier, keys, func(l *list) error {
		l.drop(v.where(), v.ID())
		return nil
	})
}

// letGo removes docker's mounts of a volume. If the volume has other users the error is
// ErrInUse, and the mounts stay.
func (s *Store) letGo(ctx context.Context, v Volume) error {
	if v.missing {
		return s.keepUses(v.ID(), nil)
	}
	used, err := s.release(ctx, v, settleFor)
	if err != nil {
		return err
	}
	if used != "" {
		return fmt.Errorf("%w: %s", ErrInUse, used)
	}
	return nil
}

// subdirs lists the directories in one directory; none where that is missing.
func subdirs(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
