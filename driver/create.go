package driver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"layervault/internal/mounts"
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
	if err := mounts.DetachAll(s.merged(id)); err != nil {
		return fmt.Errorf("remove layer %s: %w", id, err)
	}
	d.counts.set(id, 0)
	if err := s.store.Remove(ctx, id); err != nil {
		return err
	}
	d.counts.forget(id)
	// The layer is gone; files written outside it are deleted too, and reported.
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
		d.log.ErrorContext(ctx, "cannot check whether a layer exists", "layer", id, "error", err)
		return false
	}
	return s.store.Exists(id)
}
