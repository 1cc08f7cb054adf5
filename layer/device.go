package layer

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/moby/sys/user"

	"layervault/crypt"
	"layervault/crypt/ext4"
)

// ImageName is the name of the image in a layer's directory.
const ImageName = "image.luks"

// Device is an image as the store uses it.
type Device interface {
	// CreateHeld makes a writable image of size bytes that is about to be used: the image
	// stays open. crypt.ErrExists if the file is there.
	CreateHeld(ctx context.Context, size int64) (Held, error)
	// Import makes a sealed image from an uncompressed layer tar; see crypt.Image.Import. The
	// tar of an Image that is Literal is one that treetar.Exact wrote.
	Import(ctx context.Context, diffTar io.Reader) (crypt.ImportResult, error)
	// Mount mounts the image at a directory.
	Mount(ctx context.Context, at string) error
	// Hold keeps the image, mounted at a directory, from being closed by the kernel when
	// its last mount goes.
	Hold(at string) (Held, error)
	// Remove destroys the key slots, then the file. Not there is no error.
	Remove(ctx context.Context) error
	// UUID is the LUKS2 UUID of the image.
	UUID() (string, error)
	// Upgrade makes the image one of the present format, in place; see
	// crypt.Image.Upgrade. It may be mounted meanwhile.
	Upgrade(ctx context.Context) error
	// Outdated says whether a sealed image is of an older form than Import makes here; see
	// crypt.Image.Outdated.
	Outdated(ctx context.Context) (bool, error)
	// Opened is the number of the device that has the image open, 0 if it is unused; see
	// crypt.Image.Opened.
	Opened() (uint64, error)
}

// Held is an image kept open.
type Held interface {
	io.Closer
	// Mount mounts the image once more, at another place.
	Mount(at string) error
}

// encrypted makes a Device of package crypt's image.
type encrypted struct {
	*crypt.Image
	making crypt.Making
}

func (e encrypted) CreateHeld(ctx context.Context, size int64) (Held, error) {
	held, err := e.Image.CreateHeld(ctx, size, e.making)
	if err != nil {
		return nil, err // not a Held that holds a nil pointer
	}
	return held, nil
}

func (e encrypted) Import(ctx context.Context, diffTar io.Reader) (crypt.ImportResult, error) {
	return e.Image.Import(ctx, diffTar, e.making)
}

func (e encrypted) Outdated(ctx context.Context) (bool, error) {
	return e.Image.Outdated(ctx, e.making)
}

func (e encrypted) Mount(ctx context.Context, at string) error {
	return e.Image.Mount(ctx, at, crypt.MountOptions{})
}

func (e encrypted) Hold(at string) (Held, error) {
	held, err := e.Image.Hold(at)
	if err != nil {
		return nil, err
	}
	return held, nil
}

// Image names one image for a Devices.
type Image struct {
	Layer string // the layer's id: part of its key
	Path  string // of the file
	Kind  Kind   // Writable or Sealed
	IDMap user.IdentityMapping
	// Literal says that a tar to import was written by treetar.Exact.
	Literal bool
	// UUID is the LUKS2 UUID that the image must have; "" for any.
	UUID string
}

// Check is ErrOtherImage for an image that does not have the UUID it must have. A Device
// calls it before it opens an image.
func (im Image) Check(uuid string) error {
	if im.UUID == "" || im.UUID == uuid {
		return nil
	}
	return fmt.Errorf("%w: image %s has UUID %s, record of layer %s has UUID %s: image file was replaced",
		ErrOtherImage, im.Path, uuid, im.Layer, im.UUID)
}

// Devices makes the Device of an image; NewDevices in production.
type Devices func(Image) Device

// NewDevices makes devices of package crypt; verity is for sealed layers.
func NewDevices(keys crypt.KeySource, params crypt.Params, verity crypt.Verity, log *slog.Logger) Devices {
	templates, heap := new(crypt.Templates), new(ext4.Heap)
	return func(im Image) Device {
		image := im.encrypted(keys, log)
		if im.Kind == Sealed {
			image.Verity = verity
		}
		return encrypted{
			Image:  image,
			making: crypt.Making{Params: params, IDMap: im.IDMap, Literal: im.Literal, Templates: templates, Heap: heap},
		}
	}
}

// encrypted is im for package crypt.
func (im Image) encrypted(keys crypt.KeySource, log *slog.Logger) *crypt.Image {
	owner := crypt.Owner{Kind: crypt.KindLayer, ID: im.Layer}
	key := crypt.KeyFrom(func(context.Context) (crypt.KeySource, error) { return keys, nil }, owner)
	return &crypt.Image{
		Path: im.Path, Owner: owner, Label: im.Layer, ReadOnly: im.Kind == Sealed, Log: log,
		Key: func(ctx context.Context, format int, uuid string) ([]byte, error) {
			if err := im.Check(uuid); err != nil {
				return nil, err
			}
			return key(ctx, format, uuid)
		},
	}
}
