package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/sys/user"
)

// Import seals a fresh layer with the content of a layer tar and returns the
// content's size. It is all or nothing, durable when it returns, and reads tar
// to its end. When ctx ends, so does Import, even while it waits for tar: then a last
// Read of tar may still be under way.
//
// After a lost connection a client may send the rest of a stream as if it were the
// whole, and the rest of a tar can be a well-formed tar. So:
//   - a layer that is sealed already answers with the size it has, whatever the
//     body of the retry holds;
//   - a fresh layer into which an earlier Import broke off, or which an earlier
//     process made, is refused with ErrInterrupted: remove it and start again. An Import
//     counts that read nothing: what it was sent may be gone, and a stream of no bytes is
//     an empty layer.
func (s *Store) Import(ctx context.Context, id string, tar io.Reader, idmap user.IdentityMapping) (int64, error) {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		if ctx.Err() != nil {
			s.markBroken(id)
		}
		return 0, err
	}
	defer unlock()
	r, err := s.record(id)
	if err != nil {
		return 0, err
	}
	switch {
	case r.State != "" && r.State != Active:
		return 0, fmt.Errorf("import into layer %s: %w: %s", id, ErrState, r.State)
	case r.Kind == Sealed:
		if err := finish(ctx, NewTarStream(tar)); err != nil {
			if ctx.Err() != nil {
				return 0, fmt.Errorf("import into layer %s: %w", id, err)
			}
			s.log.DebugContext(ctx, "rest of a repeated import", "layer", id, "error", err)
		}
		return r.Size, nil
	case r.Kind == Writable:
		return 0, fmt.Errorf("import into layer %s: %w", id, ErrNotFresh)
	case s.isBroken(r):
		return 0, fmt.Errorf("import into layer %s: %w", id, ErrInterrupted)
	}
	in := NewTarStream(tar)
	err = s.fill(ctx, r, "import into", func(dir string) (Record, error) {
		next := r
		dev := s.device(Image{Layer: id, Kind: Sealed, IDMap: idmap}, dir)
		res, err := dev.Import(ctx, in)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", ErrCutOff, err)
		}
		// A truncated stream explains any other parser error.
		if endErr := finish(ctx, in); endErr != nil {
			return next, fmt.Errorf("import into layer %s: %w", id, errors.Join(endErr, err))
		}
		if err != nil {
			return next, fmt.Errorf("import into layer %s: %w", id, err)
		}
		next.Kind, next.Owner, next.Size, next.UUID = Sealed, "", res.Size, res.UUID
		return next, nil
	})
	if err != nil {
		s.markBroken(id)
		return 0, err
	}
	if r, err = s.record(id); err != nil {
		return 0, err
	}
	return r.Size, nil
}

// finish is TarStream.Finish, aborted when ctx ends: a stalled peer must not hold the
// layer's lock. The stream is not usable then.
func finish(ctx context.Context, in *TarStream) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // another goroutine may still be reading
	}
	done := make(chan error, 1)
	go func() { done <- in.Finish() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reset turns an unused writable layer back into a fresh one, so that it can be sealed.
// The caller guarantees that the layer is empty and not mounted.
func (s *Store) Reset(ctx context.Context, id string) error {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.record(id)
	if err != nil || r.Kind != Writable {
		return err
	}
	return s.reset(ctx, r)
}

// reset is Reset for a writable layer that is locked.
func (s *Store) reset(ctx context.Context, r Record) error {
	if r.State == Committed {
		return fmt.Errorf("reset layer %s: %w: %s", r.ID, ErrState, r.State)
	}
	// The record first: a crash in between leaves an image beside a fresh record,
	// which fill erases.
	next := r
	next.Kind, next.Owner, next.UUID = Fresh, s.process, ""
	if err := s.writeRecord(next, "reset"); err != nil {
		return err
	}
	// The warm image is the old one, whatever file lies at its path.
	return errors.Join(s.warm.drop(r.ID), s.eraseImage(ctx, r, r.ID))
}

// Renew is Reset for a caller that knows its tar to be the whole one, by a digest: the next
// Import is accepted whatever broke off before it, and whichever process made the layer. Error:
// ErrNotFresh for a sealed layer.
func (s *Store) Renew(ctx context.Context, id string) error {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.record(id)
	switch {
	case err != nil:
		return err
	case r.Kind == Sealed:
		return fmt.Errorf("renew layer %s: %w", id, ErrNotFresh)
	case r.Kind == Writable:
		err = s.reset(ctx, r)
	case r.Owner != s.process:
		r.Owner = s.process
		err = s.writeRecord(r, "renew")
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.broken, id)
	return nil
}

func (s *Store) isBroken(r Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, broken := s.broken[r.ID]
	return broken || r.Owner != s.process
}

func (s *Store) markBroken(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken[id] = struct{}{}
}
