package crypt

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/moby/sys/user"

	"layervault/internal/mounts"
)

// This file has the names of secureoverlay2's API for those who know them. Each is a thin
// layer over Image; nothing else in layervault uses them. What differs from secureoverlay2:
// every call takes a context, and a device needs an Owner and a Key, because there is no
// default key.

// The types of a VirtualDevice.
const (
	TypeWritable = "writable" // made by Create
	TypeSealed   = "sealed"   // made by ImportData, mounted read-only
)

// CryptParams chooses how an image is encrypted when it is made: Params.
type CryptParams = Params

// RawImage is the file that holds the encrypted image: Image.Path.
type RawImage struct {
	ImagePath string // absolute
}

// DeviceParams says how an open image meets the file system tree.
type DeviceParams struct {
	FsType  string       // "" or "ext4"
	Mnt     string       // the directory Get mounts at; it must exist
	UIDMaps []user.IDMap // container to host, nil for none: Making.IDMap
	GIDMaps []user.IDMap
}

// DeviceAPI is what a VirtualDevice can do.
type DeviceAPI interface {
	// Create makes a writable image of size bytes: Image.Create.
	Create(ctx context.Context, size int64) error
	// ImportData makes a sealed image from an uncompressed layer tar: Image.Import.
	ImportData(ctx context.Context, diffTar io.Reader) error
	// Get opens the image and mounts it at Deviceparams.Mnt: Image.Mount.
	Get(ctx context.Context) error
	// Put detaches the mount at Deviceparams.Mnt. Not mounted is no error.
	Put(ctx context.Context) error
	// Remove destroys the key slots, then the file: Image.Remove.
	Remove(ctx context.Context) error
}

// VirtualDevice is an Image by the names of secureoverlay2.
type VirtualDevice struct {
	Image        RawImage
	Name         string // Image.Label
	Type         string // TypeWritable or TypeSealed
	Deviceparams DeviceParams
	Cryptparams  CryptParams
	Owner        Owner
	Key          KeyFunc
	Log          *slog.Logger
}

var _ DeviceAPI = (*VirtualDevice)(nil)

// Create implements DeviceAPI.
func (d *VirtualDevice) Create(ctx context.Context, size int64) error {
	im, err := d.image()
	if err != nil {
		return err
	}
	return im.Create(ctx, size, d.making())
}

// ImportData implements DeviceAPI.
func (d *VirtualDevice) ImportData(ctx context.Context, diffTar io.Reader) error {
	im, err := d.image()
	if err != nil {
		return err
	}
	_, err = im.Import(ctx, diffTar, d.making())
	return err
}

// Get implements DeviceAPI.
func (d *VirtualDevice) Get(ctx context.Context) error {
	im, err := d.image()
	if err != nil {
		return err
	}
	return im.Mount(ctx, d.Deviceparams.Mnt, MountOptions{})
}

// Put implements DeviceAPI.
func (d *VirtualDevice) Put(context.Context) error { return mounts.Detach(d.Deviceparams.Mnt) }

// Remove implements DeviceAPI.
func (d *VirtualDevice) Remove(ctx context.Context) error {
	return (&Image{Path: d.Image.ImagePath}).Remove(ctx)
}

// image rejects what only this API can say wrong.
func (d *VirtualDevice) image() (*Image, error) {
	if d.Type != TypeWritable && d.Type != TypeSealed {
		return nil, fmt.Errorf("%w: type %q is neither %q nor %q", ErrBadParams, d.Type, TypeWritable, TypeSealed)
	}
	if fs := d.Deviceparams.FsType; fs != "" && fs != "ext4" {
		return nil, fmt.Errorf("%w: file system %q is not supported, must be ext4", ErrBadParams, fs)
	}
	return &Image{
		Path: d.Image.ImagePath, Owner: d.Owner, Label: d.Name, ReadOnly: d.Type == TypeSealed, Key: d.Key, Log: d.Log,
	}, nil
}

func (d *VirtualDevice) making() Making {
	return Making{
		Params: d.Cryptparams,
		IDMap:  user.IdentityMapping{UIDMaps: d.Deviceparams.UIDMaps, GIDMaps: d.Deviceparams.GIDMaps},
	}
}
