package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots/storage"

	"layervault/layer"
)

// Remove removes a snapshot that no other stands on. Its key can be used again at once; the
// layer's key slots are destroyed, and its space freed, behind the answer: see Cleanup.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	unlock, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	var gone entry
	err = s.db.write(ctx, func(ctx context.Context, t tables) (err error) {
		gone, err = s.leave(ctx, t, key)
		return err
	})
	if err != nil {
		return classify(fmt.Errorf("remove snapshot %q: %w", key, err))
	}
	s.unpacks.end(unpackingOf(key, gone.info.Parent, gone.info.Labels))
	s.attached.drop(gone.layer)
	s.eraseBehind()
	return nil
}

// leave removes a snapshot from the database and lists its layer as one to be erased. A layer
// whose record says that it is another snapshot's stays: the database is not believed, and may be
// an older one. A layer whose commit was interrupted is no other snapshot's.
func (s *Snapshotter) leave(ctx context.Context, t tables, key string) (e entry, err error) {
	if e, err = t.entry(ctx, key); err != nil {
		return e, err
	}
	if _, _, err := storage.Remove(ctx, key); err != nil {
		return e, err
	}
	if err := t.remove(bucketLayers, e.number); err != nil {
		return e, err
	}
	committing, err := t.get(bucketCommitting, e.layer)
	if err != nil {
		return e, err
	}
	if err := t.remove(bucketCommitting, e.layer); err != nil {
		return e, err
	}
	switch r, err := s.layers.Get(e.layer); {
	case e.layer == "", errors.Is(err, layer.ErrNotFound):
		return e, nil
	case err == nil && r.State == layer.Committed && r.Name == committing:
	case err == nil && (r.Name != key || r.State != states[e.info.Kind]):
		s.log.WarnContext(ctx, "the layer of a removed snapshot stays: its record says that it is another one", "snapshot", key, "layer", e.layer, "name", r.Name, "state", r.State)
		return e, nil
	}
	return e, t.put(bucketRemoved, e.layer, key)
}

// Cleanup erases the layers of all removed snapshots, and waits for it.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	if s.isClosed() {
		return classify(ErrClosed)
	}
	return classify(s.erase(ctx))
}

// eraser sees to it that one goroutine erases at a time.
type eraser struct {
	mu sync.Mutex // held while erasing
	// asked: a run behind an answer has been asked for and has not begun.
	asked atomic.Bool
}

// eraseBehind erases behind the answer.
func (s *Snapshotter) eraseBehind() {
	if s.eraser.asked.Swap(true) {
		return
	}
	s.later(func(ctx context.Context) {
		if err := s.erase(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot erase the layers of removed snapshots; it is tried again at the next removal", "error", err)
		}
	})
}

// erase goes through the list of layers to be erased until it is empty, or makes no progress.
func (s *Snapshotter) erase(ctx context.Context) error {
	s.eraser.mu.Lock()
	defer s.eraser.mu.Unlock()
	s.eraser.asked.Store(false) // what is listed from here on may be missed
	for {
		var ids []string
		err := s.db.read(ctx, func(_ context.Context, t tables) (err error) {
			ids, err = t.keys(bucketRemoved)
			return err
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		var gone []string
		var errs []error
		for _, id := range ids {
			switch err := s.eraseLayer(ctx, id); {
			case err == nil:
				gone = append(gone, id)
			case ctx.Err() != nil:
				return context.Cause(ctx)
			default:
				errs = append(errs, err)
			}
		}
		if len(gone) == 0 {
			return errors.Join(errs...)
		}
		if err := s.erased(ctx, gone); err != nil {
			return err
		}
	}
}

func (s *Snapshotter) eraseLayer(ctx context.Context, id string) error {
	if err := layer.ValidateID(id); err != nil {
		return nil //nolint:nilerr // no layer of ours; it only leaves the list
	}
	if err := s.attached.evict(ctx, id); err != nil {
		return err
	}
	return s.layers.Remove(ctx, id)
}

// erased takes layers off the list.
func (s *Snapshotter) erased(ctx context.Context, ids []string) error {
	return s.db.write(ctx, func(_ context.Context, t tables) error {
		for _, id := range ids {
			if err := t.remove(bucketRemoved, id); err != nil {
				return err
			}
		}
		return nil
	})
}
