package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"layervault/persist"
)

// Collected is the result of GC for one superseded generation.
type Collected struct {
	Volume Volume
	Err    error // why it is still there
}

// GC removes superseded generations and leftovers of crashes. An error of one generation does
// not stop the removal of others.
func (s *Store) GC(ctx context.Context, dryRun bool) ([]Collected, error) {
	if !dryRun {
		if err := s.sweep(ctx); err != nil {
			return nil, err
		}
	}
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var done []Collected
	for _, v := range vs {
		if !v.Superseded {
			continue
		}
		c := Collected{Volume: v}
		if dryRun {
			c.Err = s.mayCollect(ctx, vs, v)
		} else {
			c.Err = s.collect(ctx, v)
		}
		done = append(done, c)
	}
	if dryRun {
		return done, nil
	}
	return done, s.gcLists(ctx)
}

func (s *Store) collect(ctx context.Context, v Volume) error {
	unlock, err := s.lockName(ctx, v.lockName())
	if err != nil {
		return err
	}
	defer unlock()
	// It is looked up again under the lock, because it may be a present volume by now.
	vs, err := s.List(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(vs, func(o Volume) bool { return o.ID() == v.ID() && o.where() == v.where() })
	if i < 0 || !vs[i].Superseded {
		return nil
	}
	if err := s.mayCollect(ctx, vs, vs[i]); err != nil {
		return err
	}
	return s.remove(ctx, vs[i])
}

// mayCollect returns the reason why a superseded generation is kept: the generation after it
// must be usable and authentic.
func (s *Store) mayCollect(ctx context.Context, vs []Volume, v Volume) error {
	for _, o := range vs {
		if o.UUID != v.UUID || o.Superseded || o.Generation <= v.Generation {
			continue
		}
		if err := s.authenticate(ctx, o, toChange); err != nil {
			return fmt.Errorf("generation %d is kept: the generation after it cannot be used: %w", v.Generation, err)
		}
		return nil
	}
	return fmt.Errorf("generation %d of %s is kept: no later generation exists", v.Generation, v.UUID)
}

// gcLists removes pending entries without a volume from the lists: no process is making those
// volumes. The list of a locked tier stays as it is.
func (s *Store) gcLists(ctx context.Context) error {
	for _, tier := range listTiers {
		l := s.catalog.list(tier)
		if l == nil || l.damage != nil {
			continue
		}
		for _, e := range l.Volumes {
			if _, err := os.Lstat(e.path(s.cfg.Layout)); !e.Pending || !errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err := s.forgetPending(ctx, tier, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) forgetPending(ctx context.Context, tier persist.Tier, e entry) error {
	unlock, err := s.lockName(ctx, e.Name)
	if err != nil {
		return err
	}
	defer unlock()
	keys, err := s.cfg.Keys(ctx, tier)
	if err != nil {
		s.log.DebugContext(ctx, "tier is locked; its list of volumes stays as it is", "tier", tier, "reason", err)
		return nil
	}
	return s.relist(ctx, tier, keys, func(l *list) error {
		now := l.find(where(e.Options), e.id())
		if _, err := os.Lstat(e.path(s.cfg.Layout)); now != nil && now.Pending && errors.Is(err, os.ErrNotExist) {
			l.drop(where(e.Options), e.id())
		}
		return nil
	})
}
