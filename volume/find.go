package volume

import (
	"context"
	"fmt"
	"slices"
)

// Get finds a volume by its name, or by its ID. One that cannot be used is returned beside
// the error that says why.
func (s *Store) Get(ctx context.Context, name string) (Volume, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return Volume{}, err
	}
	return find(vs, name)
}

func find(vs []Volume, name string) (Volume, error) {
	var found, damaged *Volume
	for _, v := range vs {
		switch {
		case v.ID().String() == name && (v.Damage == nil || !otherPlace(vs, v)):
			return v, v.refusal()
		case v.Name != name || v.Superseded:
		case v.Damage != nil:
			if damaged == nil || v.claim() > damaged.claim() {
				damaged = &v
			}
		case found != nil:
			return Volume{}, fmt.Errorf("%w: %s is at %s and at %s", ErrAmbiguous, name, found.Path, v.Path)
		default:
			found = &v
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case damaged != nil:
		return *damaged, damaged.refusal()
	}
	return Volume{}, fmt.Errorf("%w: %s", ErrNotFound, name)
}

// refusal is why a volume cannot be used, with its name; nil where it can.
func (v Volume) refusal() error {
	if v.Damage == nil || v.Name == "" {
		return v.Damage
	}
	return fmt.Errorf("%s: %w", v.Name, v.Damage)
}

// otherPlace reports whether a sound volume has the ID of a damaged one.
func otherPlace(vs []Volume, damaged Volume) bool {
	return slices.ContainsFunc(vs, func(v Volume) bool { return v.ID() == damaged.ID() && v.Damage == nil })
}

// lockVolume finds a volume and locks it; it is looked for again under the lock.
func (s *Store) lockVolume(ctx context.Context, name string) (v Volume, unlock func(), err error) {
	v, unlock, err = s.lockAny(ctx, name)
	if err == nil && v.Damage != nil {
		unlock()
		return Volume{}, nil, v.refusal()
	}
	return v, unlock, err
}

// lockAny is lockVolume for a volume that may be damaged. What has no name is locked by its
// ID.
func (s *Store) lockAny(ctx context.Context, name string) (v Volume, unlock func(), err error) {
	if v, err = s.Get(ctx, name); err != nil && v.Damage == nil {
		return Volume{}, nil, err
	}
	locked := v.lockName()
	if unlock, err = s.lockName(ctx, locked); err != nil {
		return Volume{}, nil, err
	}
	if v, err = s.Get(ctx, name); err != nil && v.Damage == nil {
		unlock()
		return Volume{}, nil, err
	}
	if v.lockName() != locked { // made anew meanwhile, under another name
		unlock()
		return s.lockAny(ctx, name)
	}
	return v, unlock, nil
}

// lockName is the name that a volume's lock has.
func (v Volume) lockName() string {
	if v.Name == "" {
		return v.ID().String()
	}
	return v.Name
}

// lockToUse is lockVolume for the use of the volume's content.
func (s *Store) lockToUse(ctx context.Context, name string) (v Volume, unlock func(), err error) {
	if v, unlock, err = s.lockVolume(ctx, name); err != nil {
		return Volume{}, nil, err
	}
	if err := s.authenticate(ctx, v, toUse); err != nil {
		unlock()
		return Volume{}, nil, err
	}
	return v, unlock, nil
}

// generations lists a volume and the generations that it superseded, the volume itself last:
// a crash during their removal leaves the volume as it was.
func (s *Store) generations(ctx context.Context, latest Volume) ([]Volume, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	vs = slices.DeleteFunc(vs, func(v Volume) bool { return v.UUID != latest.UUID || !v.Superseded })
	slices.SortFunc(vs, func(a, b Volume) int { return int(min(max(a.Generation-b.Generation, -1), 1)) })
	return append(vs, latest), nil
}
