package disk

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/persist"
	"layervault/volume"
)

// LUKS is ours: LUKS2 under a tier's key.
const LUKS Type = "luks"

// luks is our own type: a LUKS2 image in <tier>/disks. Its passphrase is derived from the
// tier's key, so there is no key file; path is <folder>/<image>,<MiB>,<tier>.
type luks struct{}

func (luks) keys() []string { return []string{"format"} }

func (luks) read(e diskEntry, d *Disk) error {
	d.Format = e.format()
	return nil
}

// check wants the image where a rotation of the tier's key finds it.
func (luks) check(d *Disk, path string, rules Rules) error {
	if err := splitImage(d, path, rules); err != nil {
		return err
	}
	tier := persist.Tier(d.Key)
	switch {
	case tier != persist.Vault && tier != persist.Unsealed:
		return fmt.Errorf("key path: key %q: must be the tier of the luks disk, %s or %s", d.Key, persist.Vault, persist.Unsealed)
	case d.Dir != rules.Layout.Disks(tier):
		return fmt.Errorf("key path: image of a luks disk of tier %s must be in %s", tier, rules.Layout.Disks(tier))
	case d.Size < ext4.MinSize:
		return fmt.Errorf("key path: size of a luks disk must be at least %d MiB", ext4.MinSize>>20)
	case d.Format != defaultFormat:
		return errors.New("key format: must be ext4 for a luks disk")
	}
	return volume.ValidateName("image", d.Image)
}

// files implements kind: a tier is the key of many.
func (luks) files(d Disk) []string { return []string{d.ImagePath()} }

func (luks) of(s *Set, d Disk) opener { return luksDisk{d, s} }

type luksDisk struct {
	Disk
	set *Set
}

func (d luksDisk) mount(ctx context.Context, at string) error {
	options, _ := crypt.ParseMountOptions(d.Options) // checked when the file was read
	return d.image().Mount(ctx, at, options)
}

func (d luksDisk) opened() (uint64, error) { return d.image().Opened() }

func (d luksDisk) inspect(st *Status) { st.inspectImage(d) }

func (d luksDisk) marker() string { return filepath.Join(d.Dir, "."+d.Image+".init_done") }

func (luksDisk) ensureKey(context.Context, bool) error { return nil }

// wants implements image: the file is sparse.
func (luksDisk) wants() int64 { return 0 }

func (d luksDisk) create(ctx context.Context) error {
	return d.image().Create(ctx, d.Size, crypt.Making{Params: d.set.cfg.Params})
}

func (d luksDisk) image() *crypt.Image {
	owner := crypt.Owner{Kind: crypt.KindDisk, ID: d.Image}
	return &crypt.Image{
		Path: d.ImagePath(), Owner: owner, Label: d.Name, Log: d.set.cfg.Log,
		ReadOnly: errors.Is(unix.Access(d.Dir, unix.W_OK), unix.EROFS), // of a dead machine: to be read
		Key:      crypt.KeyFrom(func(ctx context.Context) (crypt.KeySource, error) { return d.set.cfg.Keys(ctx, persist.Tier(d.Key)) }, owner),
	}
}

// Passphrase gives the LUKS2 passphrase of a disk of type luks. The caller wipes it.
func (s *Set) Passphrase(ctx context.Context, name string) ([]byte, error) {
	d, err := s.usable(name)
	if err != nil {
		return nil, err
	}
	own, ok := d.Type.kind().of(s, d).(luksDisk)
	if !ok {
		return nil, fmt.Errorf("key of disk %s: %w: disk is not a LUKS image", d.Name, volume.ErrNotHere)
	}
	im := own.image()
	format, imageUUID, err := im.Identify()
	if err != nil {
		return nil, err
	}
	return im.Key(ctx, format, imageUUID)
}
