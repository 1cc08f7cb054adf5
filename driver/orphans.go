package driver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"layervault/internal/mounts"
	"layervault/layer"
)

// initSuffix marks the layer that docker puts between an image and a container
// (moby, layer/layer_store.go, initMount).
const initSuffix = "-init"

// removeOrphans removes layers on parent that docker has no record of: when a call of a
// container's creation fails, or its answer is lost with a killed plugin, docker reports
// the failure and forgets the layers (moby, layer/layer_store.go, CreateRWLayer). Such
// layers would block the removal of parent for ever. A request to remove parent proves
// that docker has no container on it, finished or in creation: during a creation docker
// holds parent.
//
// An init layer holds no user files and is removed even while mounted by a Get whose
// answer was lost. A container's layer is removed only if it was never written to; any
// other is layer.ErrInUse.
func (d *Driver) removeOrphans(ctx context.Context, s *session, parent string) error {
	children, err := s.store.Children(ctx, parent)
	if err != nil {
		return err
	}
	for _, id := range children {
		container, isInit := strings.CutSuffix(id, initSuffix)
		if !isInit {
			continue // parent will be refused because of it
		}
		users, err := s.store.Children(ctx, id)
		if err != nil {
			return err
		}
		if slices.Contains(users, container) {
			if err := d.removeUntouched(ctx, container); err != nil {
				return err
			}
		}
		if err := d.Remove(ctx, id); err != nil {
			return err
		}
		d.log.InfoContext(ctx, "removed layers of a container whose creation failed", "layer", id)
	}
	return nil
}

// removeUntouched removes a layer that is unmounted and empty, and leaves any other.
func (d *Driver) removeUntouched(ctx context.Context, id string) error {
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.store.Get(id)
	if err != nil {
		return err
	}
	if untouched, err := s.untouched(ctx, r); err != nil || !untouched {
		return err
	}
	return d.remove(ctx, s, id)
}

// untouched says whether a layer is unmounted and itself holds nothing.
func (s *session) untouched(ctx context.Context, r layer.Record) (bool, error) {
	if mounted, err := mounts.IsMounted(s.merged(r.ID)); err != nil || mounted {
		return false, err
	}
	empty, err := s.stack.Empty(ctx, r)
	if err != nil {
		return false, fmt.Errorf("read layer %s: %w", r.ID, err)
	}
	return empty, nil
}
