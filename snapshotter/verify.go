package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"

	"layervault/layer"
)

// states are the states of layers that kinds of snapshots have.
var states = map[snapshots.Kind]layer.State{
	snapshots.KindActive:    layer.Active,
	snapshots.KindView:      layer.Viewed,
	snapshots.KindCommitted: layer.Committed,
}

// verified finds a snapshot, and the authenticated record of its layer. Errors: those of
// recordOf, errdefs.ErrNotFound.
func (s *Snapshotter) verified(ctx context.Context, key string) (entry, layer.Record, error) {
	e, err := s.db.find(ctx, key)
	if err != nil {
		return entry{}, layer.Record{}, err
	}
	r, err := s.recordOf(key, e)
	return e, r, err
}

// recordOf is the record of a snapshot's layer, if it says of itself what the database says of
// the snapshot. Errors: ErrLost, ErrForged, ErrUnfinished, and those of layer.Store.Get.
func (s *Snapshotter) recordOf(key string, e entry) (layer.Record, error) {
	r, err := s.layers.Get(e.layer)
	if errors.Is(err, layer.ErrNotFound) || e.layer == "" {
		return layer.Record{}, fmt.Errorf("snapshot %q: %w: %s", key, ErrLost, e.layer)
	}
	if err != nil {
		return layer.Record{}, fmt.Errorf("snapshot %q: %w", key, err)
	}
	if e.info.Kind == snapshots.KindActive && r.State == layer.Committed {
		return r, fmt.Errorf("snapshot %q: %w", key, ErrUnfinished)
	}
	if r.Name != key || r.State != states[e.info.Kind] {
		return layer.Record{}, fmt.Errorf("snapshot %q: %w: layer %s is %q, %s", key, ErrForged, r.ID, r.Name, r.State)
	}
	return r, s.checkParent(key, e.info.Parent, r)
}

// checkParent is ErrForged if the database gives a layer another parent than its record does.
func (s *Snapshotter) checkParent(key, parent string, r layer.Record) error {
	name := ""
	if r.Parent != "" {
		p, err := s.layers.Get(r.Parent)
		if err != nil {
			return fmt.Errorf("snapshot %q: parent: %w", key, err)
		}
		name = p.Name
	}
	if name != parent {
		return fmt.Errorf("snapshot %q: %w: parent of layer %s is %q, not %q", key, ErrForged, r.ID, name, parent)
	}
	return nil
}

// chainOf are the records of a layer and its ancestors that have an image, highest first.
func (s *Snapshotter) chainOf(id string) ([]layer.Record, error) {
	chain, err := s.layers.Chain(id)
	if err != nil {
		return nil, err
	}
	images := chain[:0]
	for _, r := range chain {
		if r.Kind != layer.Fresh {
			images = append(images, r)
		}
	}
	return images, nil
}
