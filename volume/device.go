package volume

import (
	"context"
	"encoding/json"
	"fmt"

	"layervault/crypt"
	"layervault/persist"
)

// KeyKind is the part of the key derivation that tells volumes from layers.
const KeyKind = "volume"

// Device is a volume's image as the store uses it.
type Device interface {
	// Create makes the image, with a file system of size bytes. crypt.ErrExists when
	// the file is there.
	Create(ctx context.Context, size int64) error
	// Get mounts the image at Image.Mnt, once more if it is open already.
	Get(ctx context.Context) error
	// Put detaches the mount at Image.Mnt.
	Put(ctx context.Context) error
	// Grow makes the image larger; it is mounted at Image.Mnt.
	Grow(ctx context.Context, size int64) error
	// Remove destroys the key slots, then the file. Not there is no error.
	Remove(ctx context.Context) error
	// Size is that of the image's device, in bytes.
	Size() (int64, error)
	// Opened is the number of the device that the image is open as (see unix.Mkdev), 0
	// when nothing uses it.
	Opened() (uint64, error)
	// Upgrade makes the image one of the present format, in place; see
	// crypt.VirtualDevice.Upgrade. It may be mounted meanwhile.
	Upgrade(ctx context.Context) error
}

// Image names one image for a Devices.
type Image struct {
	ID      ID
	Tier    persist.Tier
	Path    string // of the file
	Mnt     string // where Get mounts; "" when it is not to be mounted
	Params  crypt.CryptParams
	Inodes  int64 // of a new image's file system, see ext4.CheckInodes; 0 for its size's
	Options crypt.MountOptions
	// ReadOnly: the file lies on a disk that cannot be written; Get mounts read-only.
	ReadOnly bool
	Token    json.RawMessage // that a new image is born with
}

// Devices makes the Device of an image.
type Devices func(Image) Device

// encrypted makes devices of package crypt.
func (s *Store) encrypted() Devices {
	templates := new(crypt.Templates)
	return func(im Image) Device {
		d := &crypt.VirtualDevice{
			Image:        crypt.RawImage{ImagePath: im.Path},
			Name:         im.ID.UUID,
			Type:         crypt.TypeWritable,
			Deviceparams: crypt.DeviceParams{FsType: "ext4", Mnt: im.Mnt, Options: im.Options},
			Cryptparams:  im.Params,
			Inodes:       im.Inodes,
			Owner:        crypt.Owner{Kind: KeyKind, ID: im.ID.String()},
			Key: func(ctx context.Context, format int, imageUUID string) ([]byte, error) {
				keys, err := s.cfg.Keys(ctx, im.Tier)
				if err != nil {
					return nil, err
				}
				if err := crypt.CheckFormat(format, keys.Floor()); err != nil {
					return nil, err
				}
				return keys.Passphrase(format, KeyKind, im.ID.String(), imageUUID)
			},
			Log:       s.log,
			Templates: templates,
		}
		if im.ReadOnly {
			d.Type = crypt.TypeSealed
		}
		if im.Token != nil {
			d.Tokens = []json.RawMessage{im.Token}
		}
		return d
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
