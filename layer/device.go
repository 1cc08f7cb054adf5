package layer

import (
	"context"
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
	// Passphrase is the LUKS2 passphrase of an image. The caller wipes it.
	Passphrase(kind, id, imageUUID string) ([]byte, error)
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
			Key: func(_ context.Context, uuid string) ([]byte, error) {
				return keys.Passphrase(keyKind, im.Layer, uuid)
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
