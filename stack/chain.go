package stack

import (
	"context"
	"errors"
	"path/filepath"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/layer"
)

// ErrNoContent says that neither a layer nor one below it has an image to mount.
var ErrNoContent = errors.New("layer has no image to mount")

// Chain is the open images of a layer and of the layers below it. Layers without content have
// none.
type Chain struct {
	view   *layer.View
	layers []layer.Record // the layer itself first
}

// Open opens the images of a layer and of the layers below it.
func (s *Stack) Open(ctx context.Context, id string) (*Chain, error) {
	layers, err := s.images(id)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, layers)
}

func (s *Stack) open(ctx context.Context, layers []layer.Record) (*Chain, error) {
	view, err := s.store.Open(ctx, layers)
	if err != nil {
		return nil, err
	}
	return &Chain{view: view, layers: view.Layers}, nil
}

// images is a layer's chain without those that have no content.
func (s *Stack) images(id string) ([]layer.Record, error) {
	chain, err := s.store.Chain(id)
	if err != nil {
		return nil, err
	}
	images := make([]layer.Record, 0, len(chain))
	for _, r := range chain {
		if r.Kind != layer.Fresh {
			images = append(images, r)
		}
	}
	return images, nil
}

// Mount shows the chain at a directory: writable if the layer is, with an SELinux label for its
// files, "" for none.
func (c *Chain) Mount(at, label string) error {
	switch len(c.layers) {
	case 0:
		return ErrNoContent
	case 1:
		return mounts.Bind(c.view.Content(0), at)
	}
	o := c.overlay(c.writable())
	o.label = label
	return o.mount(at)
}

// Close detaches the images, also when ctx has ended. A mount of the chain keeps them open.
func (c *Chain) Close(ctx context.Context) error {
	return c.view.Close(context.WithoutCancel(ctx))
}

func (c *Chain) writable() bool { return len(c.layers) > 0 && c.layers[0].Kind == layer.Writable }

// overlay puts the images on each other, the first one as upper or, read-only, as a lower like the
// others.
func (c *Chain) overlay(writable bool) overlay {
	o := overlay{dir: c.view.Dir}
	for n := range c.layers {
		if n == 0 && writable {
			top := "m" + c.view.Name(0)
			o.upper, o.work = filepath.Join(top, crypt.DirDiff), filepath.Join(top, crypt.DirWork)
			continue
		}
		o.lowers = append(o.lowers, c.view.Name(n))
	}
	return o
}
