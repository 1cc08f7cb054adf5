package area

import (
	"context"
	"encoding/json"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/persist"
)

// Device is an area's image as the set uses it.
type Device interface {
	// Create makes the image, with a file system of size bytes. crypt.ErrExists when the file
	// is there.
	Create(ctx context.Context, size int64) error
	// Mount mounts the image at a directory, once more if it is open already.
	Mount(ctx context.Context, at string) error
	// Opened is the number of the device that the image is open as (see unix.Mkdev), 0 when
	// nothing uses it.
	Opened() (uint64, error)
	// Identify reads the image's format and UUID; it needs no key.
	Identify() (format int, uuid string, err error)
}

// Devices makes the Device of an area.
type Devices func(persist.Area) Device

// mountFlags are those of every area: there are no programs in it, and no devices.
const mountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// encrypted is a Device of package crypt.
type encrypted struct {
	*crypt.Image
	params crypt.Params
}

func (e encrypted) Create(ctx context.Context, size int64) error {
	return e.Image.Create(ctx, size, crypt.Making{Params: e.params, Tokens: []json.RawMessage{}})
}

func (e encrypted) Mount(ctx context.Context, at string) error {
	return e.Image.Mount(ctx, at, crypt.MountOptions{Flags: mountFlags})
}

// Owner is what the image of an area is: a part of its key and of its header.
func Owner(a persist.Area) crypt.Owner { return crypt.Owner{Kind: crypt.KindArea, ID: string(a)} }

// encrypted makes devices of package crypt.
func (s *Set) encrypted(a persist.Area) Device {
	owner := Owner(a)
	return encrypted{
		Image: &crypt.Image{
			Path: s.cfg.Layout.AreaImage(a), Owner: owner, Label: string(a), Log: s.log,
			Key: crypt.KeyFrom(func(ctx context.Context) (crypt.KeySource, error) { return s.cfg.Keys(ctx, persist.Vault) }, owner),
		},
		params: s.cfg.Params,
	}
}
