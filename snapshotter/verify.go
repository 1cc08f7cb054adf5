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

// verifiedChain is verified with the records of all layers below, highest first.
func (s *Snapshotter) verifiedChain(ctx context.Context, key string) (entry, []layer.Record, error) {
	e, err := s.db.find(ctx, key)
	if err != nil {
		return entry{}, nil, err
	}
	chain, err := s.layers.Chain(e.layer)
	if err != nil {
		return e, nil, s.unread(key, e, err)
	}
	name := ""
	if len(chain) > 1 {
		name = chain[1].Name
	}
	return e, chain, check(key, e, chain[0], name)
}

// recordOf is the record of a snapshot's layer, if it says of itself what the database says of
// the snapshot. Errors: ErrLost, and those of check and layer.Store.Get.
func (s *Snapshotter) recordOf(key string, e entry) (layer.Record, error) {
	r, err := s.layers.Get(e.layer)
	if err != nil {
		return layer.Record{}, s.unread(key, e, err)
	}
	name := ""
	if r.Parent != "" {
		p, err := s.layers.Get(r.Parent)
		if err != nil {
			return layer.Record{}, fmt.Errorf("snapshot %q: parent: %w", key, err)
		}
		name = p.Name
	}
	return r, check(key, e, r, name)
}

// unread says why the record of a snapshot's layer, or of one below, cannot be read: ErrLost if
// the layer itself does not exist.
func (s *Snapshotter) unread(key string, e entry, err error) error {
	if e.layer == "" || errors.Is(err, layer.ErrNotFound) && !s.layers.Exists(e.layer) {
		return fmt.Errorf("snapshot %q: %w: %s", key, ErrLost, e.layer)
	}
	return fmt.Errorf("snapshot %q: %w", key, err)
}

// check compares what the database says of a snapshot with its layer's record, and with the
// name that the record of the layer's parent has. Errors: ErrForged, ErrUnfinished.
func check(key string, e entry, r layer.Record, parent string) error {
	switch {
	case e.info.Kind == snapshots.KindActive && r.State == layer.Committed:
		return fmt.Errorf("snapshot %q: %w", key, ErrUnfinished)
	case r.Name != key || r.State != states[e.info.Kind]:
		return fmt.Errorf("snapshot %q: %w: layer %s is %q, %s", key, ErrForged, r.ID, r.Name, r.State)
	case parent != e.info.Parent:
		return fmt.Errorf("snapshot %q: %w: parent of layer %s is %q, not %q", key, ErrForged, r.ID, parent, e.info.Parent)
	}
	return nil
}

// withImages are the layers of a chain that have an image.
func withImages(chain []layer.Record) []layer.Record {
	var with []layer.Record
	for _, r := range chain {
		if r.Kind != layer.Fresh {
			with = append(with, r)
		}
	}
	return with
}
