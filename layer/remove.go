package layer

import (
	"context"
	"errors"
	"fmt"

	"layervault/internal/durable"
)

// Remove destroys a layer: it stops existing, its image's key slots are
// overwritten, then the files are unlinked. Not there is no error; the parent of
// another layer is ErrInUse. The caller has unmounted it: an image that is open
// somewhere stays readable there until it is closed.
func (s *Store) Remove(ctx context.Context, id string) error {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.record(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil && !errors.Is(err, ErrDamaged) { // a damaged one must be removable
		return err
	}
	if err := s.loadIndex(ctx); err != nil {
		return fmt.Errorf("remove layer %s: %w", id, err)
	}
	if err := s.index.beginRemove(id); err != nil {
		return err
	}
	defer s.index.endRemove(id)
	holdErr := s.warm.drop(id)

	gone := tmpName(removePrefix, id)
	if err := s.root.Rename(id, gone); err != nil {
		return errors.Join(holdErr, fmt.Errorf("remove layer %s: %w", id, err))
	}
	s.forget(id)
	s.index.drop(r.Parent, id)
	if err := durable.SyncDir(s.root, "."); err != nil {
		return errors.Join(holdErr, fmt.Errorf("remove layer %s: %w", id, err))
	}
	if err := s.step("remove", id, "renamed"); err != nil {
		return errors.Join(holdErr, err)
	}
	// From here on the layer is gone whatever happens: what fails is retried by the
	// sweep at the next start. Half an erasure must not be cut short by a client
	// that went away.
	ctx = context.WithoutCancel(ctx)
	if err := errors.Join(s.discard(ctx, gone), s.discardReplaced(ctx, id)); err != nil {
		return errors.Join(holdErr, fmt.Errorf("remove layer %s: %w", id, err))
	}
	return errors.Join(holdErr, s.step("remove", id, "unlinked"))
}
