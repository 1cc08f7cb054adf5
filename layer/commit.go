package layer

import (
	"context"
	"fmt"
)

// Commit makes the content of an active layer final, and gives the layer another name. A
// layer without a parent may be put on one now ("" for none). It rewrites the record and
// touches no image, so its time is that of one small durable write: the image of a writable
// layer stays as it is, authenticated by its UUID in the record like every other, and from
// now on it is a lower that its front door shows read-only. Nothing but a removal changes the
// layer any more.
//
// When it returns, the commit is durable; when it fails, the layer is as before. It may be
// repeated, with another name too: a front door whose own note of the commit was lost with a
// crash commits again. Errors: ErrState for a layer that is neither active nor committed, or
// has no image, or stands on another parent; ErrBadName.
func (s *Store) Commit(ctx context.Context, id, name, parent string) error {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkName(name); err != nil {
		return fmt.Errorf("commit layer %s: %w", id, err)
	}
	r, err := s.record(id)
	if err != nil {
		return err
	}
	next := r
	next.Name, next.State = name, Committed
	switch {
	case r.State != Active && r.State != Committed:
		return fmt.Errorf("commit layer %s: %w: it is not active", id, ErrState)
	case r.Kind == Fresh:
		return fmt.Errorf("commit layer %s: %w: it has no image", id, ErrState)
	case parent == r.Parent || parent == "":
		if next == r {
			return nil
		}
		return s.writeRecord(next, "commit")
	case r.Parent != "":
		return fmt.Errorf("commit layer %s: %w: it stands on %s, not on %s", id, ErrState, r.Parent, parent)
	case r.State == Committed:
		// Children count on the chain that it has.
		if err := s.CheckUnused(ctx, id); err != nil {
			return fmt.Errorf("commit layer %s: %w", id, err)
		}
	}
	return s.commitOn(next, parent)
}

// commitOn is Commit for a layer that gets its parent now.
func (s *Store) commitOn(next Record, parent string) error {
	id := next.ID
	if parent == id {
		return fmt.Errorf("commit layer %s: layer is its own parent", id)
	}
	if err := ValidateID(parent); err != nil {
		return fmt.Errorf("commit layer %s: parent: %w", id, err)
	}
	if !s.index.add(parent, id) {
		return fmt.Errorf("commit layer %s: parent: %w: %s is being removed", id, ErrNotFound, parent)
	}
	next.Parent = parent
	next, err := s.on(next)
	if err == nil {
		err = s.writeRecord(next, "commit")
	}
	if err != nil {
		s.index.drop(parent, id)
		return fmt.Errorf("commit layer %s: parent: %w", id, err)
	}
	return nil
}
