package driver

import (
	"context"
	"fmt"
	"io"

	"github.com/moby/go-archive"

	"layervault/layer"
)

// lookUp is how every call that only reads a layer starts.
func (d *Driver) lookUp(ctx context.Context, id string) (*session, layer.Record, error) {
	if err := layer.ValidateID(id); err != nil {
		return nil, layer.Record{}, err
	}
	s, err := d.session(ctx)
	if err != nil {
		return nil, layer.Record{}, err
	}
	r, err := s.store.Get(id)
	return s, r, err
}

// Diff streams the tar of what a layer changes over parent, with whiteouts as
// OCI layers have them. The caller closes the stream, which also unmounts; the end
// of ctx breaks it off. What could not be read is an error of Read, never a file
// less.
func (d *Driver) Diff(ctx context.Context, id, parent string) (io.ReadCloser, error) {
	s, r, err := d.lookUp(ctx, id)
	if err != nil {
		return nil, err
	}
	in, err := s.stack.Diff(ctx, r, parent)
	if err != nil {
		return nil, fmt.Errorf("diff of layer %s: %w", id, err)
	}
	return in, nil
}

// Changes lists what a layer changes over parent: paths from "/", sorted. A
// directory in which something changed is itself a modification.
func (d *Driver) Changes(ctx context.Context, id, parent string) ([]archive.Change, error) {
	s, r, err := d.lookUp(ctx, id)
	if err != nil {
		return nil, err
	}
	changes, err := s.stack.Changes(ctx, r, parent)
	if err != nil {
		return nil, fmt.Errorf("changes of layer %s: %w", id, err)
	}
	return changes, nil
}

// DiffSize is the size in bytes of the files by which a layer differs from
// parent: each inode once, symbolic links by the length of their target,
// directories not at all. For the same content it is what ApplyDiff answers.
func (d *Driver) DiffSize(ctx context.Context, id, parent string) (int64, error) {
	s, r, err := d.lookUp(ctx, id)
	if err != nil {
		return 0, err
	}
	size, err := s.stack.Size(ctx, r, parent)
	if err != nil {
		return 0, fmt.Errorf("size of layer %s: %w", id, err)
	}
	return size, nil
}
