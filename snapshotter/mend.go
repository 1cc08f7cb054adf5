package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"

	"layervault/layer"
)

// Mend mends what Judge finds mendable, and returns it:
//
//	Unlisted    entered again under the name of its record, if something names it
//	Lost        taken off the database, if nothing names it
//	Unfinished  committed, if something names what it was to become
//
// Layers that nothing names stay, unless erase is set: then their key slots are destroyed. named
// must not be guessed: Unsaid leaves everything as it is. What cannot be mended is in the error,
// beside the rest.
func (s *Snapshotter) Mend(ctx context.Context, named func(name string) Named, erase bool) (mended []Problem, err error) {
	entries, removed, err := s.db.entries(ctx)
	if err != nil {
		return nil, err
	}
	records, err := s.layers.List(ctx)
	if err != nil && !errors.Is(err, layer.ErrDamaged) { // a damaged one is no other's concern
		return nil, err
	}
	errs := []error{err}
	todo := slices.DeleteFunc(Judge(entries, removed, records, named), func(p Problem) bool { return !p.Mendable })
	// A snapshot goes before what it stands on, and comes after it: so it is tried again as long
	// as another one succeeded.
	for progress := true; progress && len(todo) > 0; {
		progress = false
		var left []Problem
		errs = errs[:1]
		for _, p := range todo {
			switch done, err := s.mend(ctx, p, erase); {
			case ctx.Err() != nil:
				return mended, context.Cause(ctx)
			case err != nil:
				errs = append(errs, fmt.Errorf("snapshot %q: %w", p.Snapshot, err))
				left = append(left, p)
			case done:
				mended, progress = append(mended, p), true
			}
		}
		todo = left
	}
	return mended, errors.Join(errs...)
}

func (s *Snapshotter) mend(ctx context.Context, p Problem, erase bool) (done bool, err error) {
	switch p.Kind {
	case Unfinished:
		r, err := s.layers.Get(p.Layer)
		if err != nil {
			return false, err
		}
		return true, s.Commit(ctx, r.Name, p.Snapshot)
	case Lost:
		return true, s.Remove(ctx, p.Snapshot)
	case Unlisted:
		if p.Named == IsNamed {
			return true, s.enlist(ctx, p.Layer)
		}
		if erase {
			return true, s.eraseLayer(ctx, p.Layer)
		}
	}
	return false, nil
}

// enlist puts the snapshot of a layer into the database again: by its authenticated record, and
// on the parent that this names, which must be there. Its labels are lost; containerd has its own
// copy of those that it uses.
func (s *Snapshotter) enlist(ctx context.Context, id string) error {
	r, err := s.layers.Get(id)
	if err != nil {
		return err
	}
	unlock, err := s.begin(ctx, r.Name)
	if err != nil {
		return err
	}
	defer unlock()
	parent := ""
	if r.Parent != "" {
		p, err := s.layers.Get(r.Parent)
		if err != nil {
			return fmt.Errorf("parent: %w", err)
		}
		parent = p.Name
	}
	var usage snapshots.Usage
	if r.State == layer.Committed {
		visitor := id + "+usage"
		if err := s.attached.hold(ctx, visitor, []layer.Record{r}); err != nil {
			return err
		}
		defer s.attached.drop(visitor)
		if usage, err = s.usageOf(r); err != nil {
			return err
		}
	}
	return s.db.write(ctx, func(ctx context.Context, t tables) error {
		number, err := enlisted(ctx, r, parent, usage)
		if err != nil {
			return err
		}
		return t.put(bucketLayers, number, id)
	})
}

// enlisted makes the entry of a snapshot; it returns the database's number of it.
func enlisted(ctx context.Context, r layer.Record, parent string, usage snapshots.Usage) (string, error) {
	switch r.State {
	case layer.Committed:
		// The database knows no other way to a committed one. No key has a "+".
		if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "+"+r.ID, parent); err != nil {
			return "", err
		}
		return storage.CommitActive(ctx, "+"+r.ID, r.Name, usage)
	case layer.Viewed:
		made, err := storage.CreateSnapshot(ctx, snapshots.KindView, r.Name, parent)
		return made.ID, err
	}
	made, err := storage.CreateSnapshot(ctx, snapshots.KindActive, r.Name, parent)
	return made.ID, err
}
