package volume

import (
	"context"
	"encoding/json"
	"fmt"

	"layervault/crypt"
	"layervault/persist"
)

// Device is a volume's image as the store uses it.
type Device interface {
	// Create makes the image, with a file system of size bytes. crypt.ErrExists when
	// the file is there.
	Create(ctx context.Context, size int64) error
	// Mount mounts the image at a directory, once more if it is open already.
	Mount(ctx context.Context, at string) error
	// Grow makes the image larger; it is mounted at a directory.
	Grow(ctx context.Context, at string, size int64) error
	// Remove destroys the key slots, then the file. Not there is no error.
	Remove(ctx context.Context) error
	// Size is that of the image's device, in bytes.
	Size() (int64, error)
	// Opened is the number of the device that the image is open as (see unix.Mkdev), 0
	// when nothing uses it.
	Opened() (uint64, error)
	// Upgrade makes the image one of the present format, in place; see
	// crypt.Image.Upgrade. It may be mounted meanwhile.
	Upgrade(ctx context.Context) error
}

// Image names one image for a Devices.
type Image struct {
	ID      ID
	Tier    persist.Tier
	Path    string // of the file
	Params  crypt.Params
	Inodes  int64              // of a new image's file system, see ext4.CheckInodes; 0 for its size's
	Options crypt.MountOptions // of Mount
	// ReadOnly: the file lies on a disk that cannot be written; Mount mounts read-only.
	ReadOnly bool
	Token    json.RawMessage // that a new image is born with
}

// Devices makes the Device of an image.
type Devices func(Image) Device

// encrypted makes a Device of package crypt's image.
type encrypted struct {
	*crypt.Image
	making  crypt.Making
	options crypt.MountOptions
}

func (e encrypted) Create(ctx context.Context, size int64) error {
	return e.Image.Create(ctx, size, e.making)
}

func (e encrypted) Mount(ctx context.Context, at string) error {
	return e.Image.Mount(ctx, at, e.options)
}

// encrypted makes devices of package crypt.
func (s *Store) encrypted() Devices {
	templates := new(crypt.Templates)
	return func(im Image) Device {
		owner := crypt.Owner{Kind: crypt.KindVolume, ID: im.ID.String()}
		e := encrypted{
			Image: &crypt.Image{
				Path: im.Path, Owner: owner, Label: im.ID.UUID, ReadOnly: im.ReadOnly, Log: s.log,
				Key: crypt.KeyFrom(func(ctx context.Context) (crypt.KeySource, error) { return s.cfg.Keys(ctx, im.Tier) }, owner),
			},
			making:  crypt.Making{Params: im.Params, Inodes: im.Inodes, Templates: templates},
			options: im.Options,
		}
		if im.Token != nil {
			e.making.Tokens = []json.RawMessage{im.Token}
		}
		return e
	}
}

// Passphrase gives the LUKS2 passphrase of a volume's image. The caller wipes it.
func (s *Store) Passphrase(ctx context.Context, name string) ([]byte, error) {
	v, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	im, err := s.imageOf(v)
	if err != nil {
		return nil, fmt.Errorf("key of volume %s: %w", name, err)
	}
	return im.passphrase(ctx)
}
