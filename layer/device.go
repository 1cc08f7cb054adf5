package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/moby/sys/user"

	"layervault/crypt"
)

// keyKind is the part of the key derivation that separates layers from volumes.
const keyKind = "layer"

// ImageName is the name of the image in a layer's directory.
const ImageName = "image.luks"

// KeySource is the open tier.
type KeySource interface {
	// Passphrase is the LUKS2 passphrase of an image of a format (crypt.KeyFunc). The
	// caller wipes it.
	Passphrase(format int, kind, id, imageUUID string) ([]byte, error)
	// MAC authenticates a record of a kind (HMAC-SHA256 under a subkey of the tier key).
	MAC(what string, data []byte) ([]byte, error)
	// Floor is the lowest format of images and records that the tier still accepts.
	Floor() int
}

// Device is an image as the store uses it.
type Device interface {
	crypt.DeviceAPI
	// CreateHeld is Create for an image that is about to be used: it stays open.
	CreateHeld(ctx context.Context, size int64) (Held, error)
	// Hold keeps an image that Get has mounted from being closed by the kernel when
	// its last mount goes.
	Hold(ctx context.Context) (Held, error)
	// UUID is the LUKS2 UUID of the image.
	UUID() (string, error)
	// Upgrade makes the image one of the present format, in place; see
	// crypt.VirtualDevice.Upgrade. It may be mounted meanwhile.
	Upgrade(ctx context.Context) error
}

// Held is an image kept open.
type Held interface {
	io.Closer
	// Mount mounts the image once more, at another place.
	Mount(at string) error
}

// encrypted makes a Device of package crypt's device.
type encrypted struct{ *crypt.VirtualDevice }

func (e encrypted) CreateHeld(ctx context.Context, size int64) (Held, error) {
	held, err := e.VirtualDevice.CreateHeld(ctx, size)
	if err != nil {
		return nil, err // not a Held that holds a nil pointer
	}
	return held, nil
}

func (e encrypted) Hold(ctx context.Context) (Held, error) {
	held, err := e.VirtualDevice.Hold(ctx)
	if err != nil {
		return nil, err
	}
	return held, nil
}

// Image names one image for a Devices.
type Image struct {
	Layer string // the layer's id: part of its key
	Path  string // of the file
	Mnt   string // where Get mounts; "" when it is not to be mounted
	Kind  Kind   // Writable or Sealed
	IDMap user.IdentityMapping
	// UUID is the LUKS2 UUID that the image must have; "" for any.
	UUID string
}

// Check is ErrOtherImage for an image that does not have the UUID it must have. A Device
// calls it before it opens an image.
func (im Image) Check(uuid string) error {
	if im.UUID == "" || im.UUID == uuid {
		return nil
	}
	return fmt.Errorf("%w: image %s has UUID %s, record of layer %s has UUID %s: image file was replaced; restore the right image, or remove the layer",
		ErrOtherImage, im.Path, uuid, im.Layer, im.UUID)
}

// Devices makes the Device of an image; NewDevices in production.
type Devices func(Image) Device

// NewDevices makes devices of package crypt.
func NewDevices(keys KeySource, params crypt.CryptParams, log *slog.Logger) Devices {
	templates := new(crypt.Templates)
	return func(im Image) Device {
		return encrypted{&crypt.VirtualDevice{
			Image: crypt.RawImage{ImagePath: im.Path},
			Name:  im.Layer,
			Type:  im.Kind.imageType(),
			Deviceparams: crypt.DeviceParams{
				FsType: "ext4", Mnt: im.Mnt, UIDMaps: im.IDMap.UIDMaps, GIDMaps: im.IDMap.GIDMaps,
			},
			Cryptparams: params,
			Owner:       crypt.Owner{Kind: keyKind, ID: im.Layer},
			Key: func(_ context.Context, format int, uuid string) ([]byte, error) {
				if err := errors.Join(im.Check(uuid), crypt.CheckFormat(format, keys.Floor())); err != nil {
					return nil, err
				}
				return keys.Passphrase(format, keyKind, im.Layer, uuid)
			},
			Log:       log,
			Templates: templates,
		}}
	}
}

func (k Kind) imageType() string {
	if k == Sealed {
		return crypt.TypeSealed
	}
	return crypt.TypeWritable
}
