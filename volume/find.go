package volume

import (
	"context"
	"fmt"
	"slices"
)

// Get finds a volume by its name, or by its ID.
func (s *Store) Get(ctx context.Context, name string) (Volume, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return Volume{}, err
	}
	var found *Volume
	for _, v := range vs {
		if v.ID().String() == name {
			return v, v.Damage
		}
		if v.Name != name || v.Damage != nil || v.Superseded {
			continue
		}
		if found != nil {
			return Volume{}, fmt.Errorf("%w: %s is %s and %s: move one away", ErrAmbiguous, name, found.Path, v.Path)
		}
		found = &v
	}
	if found == nil {
		return Volume{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return *found, nil
}

// lockVolume finds a volume and locks it; it is looked for again under the lock.
func (s *Store) lockVolume(ctx context.Context, name string) (v Volume, unlock func(), err error) {
	if v, err = s.Get(ctx, name); err != nil {
		return Volume{}, nil, err
	}
	if unlock, err = s.lockName(ctx, v.Name); err != nil {
		return Volume{}, nil, err
	}
	if v, err = s.Get(ctx, name); err != nil {
		unlock()
		return Volume{}, nil, err
	}
	return v, unlock, nil
}

// generations lists the volumes of a UUID, the latest first.
func (s *Store) generations(ctx context.Context, id string) ([]Volume, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	vs = slices.DeleteFunc(vs, func(v Volume) bool { return v.UUID != id })
	slices.SortFunc(vs, func(a, b Volume) int { return int(min(max(b.Generation-a.Generation, -1), 1)) })
	return vs, nil
}
