package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/internal/mounts"
	"layervault/persist"
)

// images are the volumes of a tier with a key. Each is a LUKS2 image; its record is a token
// of the header.
type images struct{ in persist.Tier }

func (k images) tier() persist.Tier { return k.in }

func (k images) keyTier() (persist.Tier, bool) { return k.in, true }

func (k images) path(l persist.Layout, id ID) string {
	return filepath.Join(l.Volumes(k.in), id.String())
}

func (images) recordFile(string) string { return "" }

func (images) content(r Record, revision string) place { return ownContent(r, revision) }

func (images) notImage(Options) string { return "" }

func (images) fit(o Options) Options {
	o.Platform = ""
	return o
}

func (images) sweep(ctx context.Context, dir string) error { return crypt.SweepDir(ctx, dir) }

func (images) of(s *Store, v Volume) backing { return image{v, s} }

// image is a volume that is an encrypted image of its own.
type image struct {
	Volume
	store *Store
}

// imageOf is a volume as an image; ErrNotHere where it has none.
func (s *Store) imageOf(v Volume) (image, error) {
	if im, ok := s.backing(v).(image); ok {
		return im, nil
	}
	return image{}, fmt.Errorf("%w: volume has no image of its own", ErrNotHere)
}

// device makes the image's Device.
func (im image) device() (Device, error) {
	mountOptions, err := crypt.ParseMountOptions(im.Options.MountOpts)
	if err != nil {
		return nil, err
	}
	return im.store.cfg.Devices(Image{ID: im.ID(), Tier: im.Options.Tier, Path: im.Path, Options: mountOptions, ReadOnly: im.store.readOnly}), nil
}

// create makes the image. A crash leaves a temporary file, or the image with its token; see
// package crypt.
func (im image) create(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(im.Path), 0o700); err != nil {
		return err
	}
	text, err := im.encodeToken()
	if err != nil {
		return err
	}
	params := im.store.cfg.CryptParams
	if im.Options.Cipher != "" {
		params.Cipher, params.KeySize = im.Options.Cipher, 0
	}
	if im.Options.Sector != 0 {
		params.SectorSize = im.Options.Sector
	}
	size := im.Options.Size
	if size == 0 {
		size = im.store.cfg.DefaultSize
	}
	if err := ext4.CheckInodes(im.Options.Inodes, size); err != nil {
		return fmt.Errorf("%w inodes: %w", ErrBadOption, err)
	}
	dev := im.store.cfg.Devices(Image{ID: im.ID(), Tier: im.Options.Tier, Path: im.Path, Params: params, Inodes: im.Options.Inodes, Token: text})
	if err := dev.Create(ctx, size); errors.Is(err, crypt.ErrExists) {
		return fmt.Errorf("%w: record of the existing image cannot be read: %w", ErrExists, err)
	} else if err != nil {
		return err
	}
	return nil
}

func (im image) within(ctx context.Context, f func(root string) error) error {
	return im.mounted(ctx, func(root string, _ Device) error { return f(root) })
}

// mounted is within, with the device.
func (im image) mounted(ctx context.Context, f func(root string, dev Device) error) (err error) {
	at, release, err := mounts.MakeTemp(im.store.cfg.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	dev, err := im.device()
	if err != nil {
		return err
	}
	if err := dev.Mount(ctx, at); err != nil {
		return err
	}
	return f(at, dev)
}

func (im image) opened() (uint64, error) {
	dev, err := im.device()
	if err != nil {
		return 0, err
	}
	return dev.Opened()
}

func (im image) mounts() (func(*mountinfo.Info) bool, error) {
	number, err := im.opened()
	if err != nil || number == 0 {
		return nil, err
	}
	return mounts.OnDevice(number), nil
}

func (im image) users() (string, error) {
	if im.Damage != nil {
		return usedFile(im.Path) // its device is unknown if its header is damaged
	}
	number, err := im.opened()
	if err != nil || number == 0 {
		return "", err
	}
	return mounts.HoldersOfDevice(number), nil
}

func (im image) heal(ctx context.Context) error {
	used, err := im.store.release(ctx, im.Volume, 0) // a start waits for no container
	if err == nil && used != "" {
		im.store.log.DebugContext(ctx, "a volume is still in use", "volume", im.Name, "by", used)
	}
	return err
}

func (im image) sizes() (device, occupied int64, err error) {
	if occupied, err = allocated(im.Path); err != nil {
		return 0, 0, err
	}
	dev, err := im.device()
	if err != nil {
		return 0, 0, err
	}
	device, err = dev.Size()
	return device, occupied, err
}

func (im image) destroy(ctx context.Context) error {
	dev, err := im.device()
	if err != nil {
		return err
	}
	return dev.Remove(ctx)
}

// upgrade makes the image one of the present format.
func (im image) upgrade(ctx context.Context) error {
	dev, err := im.device()
	if err != nil {
		return err
	}
	return dev.Upgrade(ctx)
}

// passphrase gives the LUKS2 passphrase. The caller wipes it.
func (im image) passphrase(ctx context.Context) ([]byte, error) {
	format, imageUUID, err := (&crypt.Image{Path: im.Path}).Identify()
	if err != nil {
		return nil, err
	}
	keys, err := im.store.cfg.Keys(ctx, im.Options.Tier)
	if err != nil {
		return nil, err
	}
	return keys.Passphrase(format, crypt.KindVolume, im.ID().String(), imageUUID)
}

// readImageRecord reads the record of an image from its header.
func readImageRecord(path string) (Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return Record{}, err
	}
	tokens, err := h.Tokens()
	if err != nil {
		return Record{}, err
	}
	for _, t := range tokens {
		if t.Type == TokenType {
			return decodeToken(t.JSON)
		}
	}
	return Record{}, fmt.Errorf("%w: header has no token of type %s", ErrDamaged, TokenType)
}
