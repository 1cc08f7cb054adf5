package snapshottertest

import (
	"context"
	"io"
	"sync/atomic"

	"layervault/crypt"
	"layervault/layer"
)

// Count counts what is done to images.
type Count struct{ Writable, Sealed, Mounted, Erased atomic.Int64 }

// Of makes images that are counted.
func (c *Count) Of(images Images) Images {
	return func(cfg *layer.Config) {
		images(cfg)
		devices := cfg.Devices
		cfg.Devices = func(im layer.Image) layer.Device { return counted{devices(im), c} }
	}
}

type counted struct {
	layer.Device
	count *Count
}

// CreateHeld implements layer.Device, as the following.
func (d counted) CreateHeld(ctx context.Context, size int64) (layer.Held, error) {
	d.count.Writable.Add(1)
	return d.Device.CreateHeld(ctx, size)
}

// Import counts sealed images.
func (d counted) Import(ctx context.Context, diffTar io.Reader) (crypt.ImportResult, error) {
	d.count.Sealed.Add(1)
	return d.Device.Import(ctx, diffTar)
}

// Mount counts images that are opened.
func (d counted) Mount(ctx context.Context, at string) error {
	d.count.Mounted.Add(1)
	return d.Device.Mount(ctx, at)
}

// Remove counts images that are erased.
func (d counted) Remove(ctx context.Context) error {
	d.count.Erased.Add(1)
	return d.Device.Remove(ctx)
}
