package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"layervault/internal/mounts"
	"layervault/layer"
)

// initSuffix marks the layer that docker puts between an image and a container
// (moby, layer/layer_store.go, initMount).
const initSuffix = "-init"

// removeOrphans removes what docker forgot of containers on parent that it never came to
// know: when a call of a container's creation fails, or its answer is lost with a plugin
// that was killed, docker reports that and never speaks of the layers again (moby,
// layer/layer_store.go, CreateRWLayer). They would keep parent from being removed for
// ever. That docker asks for parent's removal says that no container of its own stands on
// it, nor is being made: while it makes one it holds parent.
//
// An init layer has nothing of anybody's and goes even if the lost answer was that of a
// Get, and it is mounted. A container's layer goes only where nothing was ever written to
// it; one that stays is layer.ErrInUse.
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
		d.log.InfoContext(ctx, "removed the layers of a container that was never made", "layer", id)
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
func (s *session) untouched(ctx context.Context, r layer.Record) (_ bool, err error) {
	if mounted, err := mounts.IsMounted(s.merged(r.ID)); err != nil || mounted {
		return false, err
	}
	content, err := s.openContent(ctx, r)
	if err != nil {
		return false, fmt.Errorf("look into layer %s: %w", r.ID, err)
	}
	defer func() { err = errors.Join(err, content.close(ctx)) }()
	entries, err := os.ReadDir(content.path)
	return err == nil && len(entries) == 0, err
}
