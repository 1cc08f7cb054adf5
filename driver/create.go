package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"layervault/layer"
)

// Create makes a layer that an ApplyDiff will fill, or that is written to after a
// Get. Repeating it with the same arguments is fine.
func (d *Driver) Create(ctx context.Context, id, parent string, opts *CreateOpts) error {
	return d.create(ctx, id, parent, opts, false)
}

// CreateReadWrite makes a layer for a container to write to, of the size that
// opts or the driver's options say.
func (d *Driver) CreateReadWrite(ctx context.Context, id, parent string, opts *CreateOpts) error {
	return d.create(ctx, id, parent, opts, true)
}

func (d *Driver) create(ctx context.Context, id, parent string, opts *CreateOpts, readWrite bool) error {
	size, err := parseCreateOpts(opts)
	if err != nil {
		return fmt.Errorf("create layer %q: %w", id, err)
	}
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return s.store.Create(ctx, id, parent, layer.CreateOptions{
		ReadWrite: readWrite, SizeLimit: size, DefaultSize: s.size, IDMap: s.idmap,
	})
}

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
// Get, and it is mounted. A container's layer goes only where nothing was ever written to it.
func (d *Driver) removeOrphans(ctx context.Context, s *session, parent string) error {
	children, err := s.store.Children(ctx, parent)
	if err != nil {
		return err
	}
	for _, id := range children {
		container, isInit := strings.CutSuffix(id, initSuffix)
		if !isInit {
			continue
		}
		users, err := s.store.Children(ctx, id)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			if !slices.Equal(users, []string{container}) {
				continue // parent will be reported as in use
			}
			if removed, err := d.removeUnused(ctx, container); err != nil {
				return err
			} else if !removed {
				continue
			}
		}
		if err := d.Remove(ctx, id); err != nil {
			return err
		}
		d.log.InfoContext(ctx, "removed the layers of a container that was never made", "layer", id)
	}
	return nil
}

// removeUnused removes a writable layer that is unmounted and empty, and says whether it was.
func (d *Driver) removeUnused(ctx context.Context, id string) (bool, error) {
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	mounted, err := isMounted(s.merged(id))
	if err != nil || mounted {
		return false, err
	}
	empty, err := s.isEmpty(ctx, id)
	if err != nil || !empty {
		return false, err
	}
	return true, d.remove(ctx, s, id)
}

// isEmpty says whether a layer itself holds nothing.
func (s *session) isEmpty(ctx context.Context, id string) (_ bool, err error) {
	r, err := s.store.Get(id)
	if err != nil {
		return false, err
	}
	content, err := s.openContent(ctx, r)
	if err != nil {
		return false, fmt.Errorf("look into layer %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, content.close(ctx)) }()
	entries, err := os.ReadDir(content.path)
	return err == nil && len(entries) == 0, err
}

// Remove unmounts a layer, destroys its key and deletes it. An id that is not
// there is no error; the parent of another layer is layer.ErrInUse.
func (d *Driver) Remove(ctx context.Context, id string) error {
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.removeOrphans(ctx, s, id); err != nil {
		return err
	}
	return d.remove(ctx, s, id)
}

// remove is Remove for a layer whose lock is held.
func (d *Driver) remove(ctx context.Context, s *session, id string) error {
	// Before anything is undone: a refusal must leave the layer as it was.
	if err := s.store.CheckUnused(ctx, id); err != nil {
		return err
	}
	if err := unmount(s.merged(id)); err != nil {
		return fmt.Errorf("remove layer %s: %w", id, err)
	}
	d.counts.set(id, 0)
	if err := s.store.Remove(ctx, id); err != nil {
		return err
	}
	// The layer is gone; what was written beside it goes too, and is told of.
	astray := d.clearMountPoint(ctx, s, id)
	for _, dir := range []string{s.merged(id), s.dir(id)} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(fmt.Errorf("remove layer %s: %w", id, err), astray)
		}
	}
	return nil
}

// Exists says whether there is such a layer. One that was half made is not there.
func (d *Driver) Exists(ctx context.Context, id string) bool {
	s, err := d.session(ctx)
	if err != nil {
		d.log.ErrorContext(ctx, "cannot say whether a layer exists", "layer", id, "error", err)
		return false
	}
	return s.store.Exists(id)
}
