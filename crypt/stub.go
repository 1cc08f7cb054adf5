package crypt

import (
	"context"
	"errors"
	"io"
)

func (d *VirtualDevice) Create(ctx context.Context, size int64) error { return errors.ErrUnsupported }
func (d *VirtualDevice) ImportData(ctx context.Context, diffTar io.Reader) (ImportResult, error) {
	return ImportResult{}, errors.ErrUnsupported
}
func (d *VirtualDevice) Get(ctx context.Context) error               { return errors.ErrUnsupported }
func (d *VirtualDevice) Put(ctx context.Context) error               { return errors.ErrUnsupported }
func (d *VirtualDevice) Remove(ctx context.Context) error            { return errors.ErrUnsupported }
func (d *VirtualDevice) Hold(ctx context.Context) (io.Closer, error) { return nil, errors.ErrUnsupported }

// Sweep removes leftover devices.
func Sweep(ctx context.Context) error { return errors.ErrUnsupported }
