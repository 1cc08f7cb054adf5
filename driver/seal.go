package driver

import (
	"context"
	"errors"
	"fmt"

	"layervault/layer"
)

// Seal seals a layer that was written to through a Get, and on which another stands by now: a step
// of a build. dockerd writes to it no more. It may still mount it, and a mount of it could be
// written to: so a layer that is got, or was got while it was being sealed, is layer.ErrNotFinal.
// From then on it is shown read-only.
func (d *Driver) Seal(ctx context.Context, id string) (layer.Resealed, error) {
	s, err := d.session(ctx)
	if err != nil {
		return layer.Resealed{}, err
	}
	seen, asked := uint64(0), false
	return s.store.SealFinal(ctx, id, func(ctx context.Context) (release func(), err error) {
		_, unlock, err := d.begin(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := d.final(ctx, s, id); err != nil {
			unlock()
			return nil, err
		}
		mounted := d.counts.mounted(id)
		if asked && mounted != seen {
			unlock()
			return nil, fmt.Errorf("%w: it was mounted meanwhile", layer.ErrNotFinal)
		}
		seen, asked = mounted, true
		return unlock, nil
	})
}

// final is layer.ErrNotFinal for a layer that may be written to now. It is locked.
func (d *Driver) final(ctx context.Context, s *session, id string) error {
	n, mounted, err := d.count(s, id)
	switch {
	case err != nil:
		return err
	case n > 0 || mounted:
		return fmt.Errorf("%w: it is mounted", layer.ErrNotFinal)
	}
	if err := s.store.CheckUnused(ctx, id); !errors.Is(err, layer.ErrInUse) {
		return errors.Join(err, fmt.Errorf("%w: no layer stands on it", layer.ErrNotFinal))
	}
	return nil
}
