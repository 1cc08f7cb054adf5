package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"

	"layervault/internal/mounts"
	"layervault/persist"
)

// kind is what volumes of one place are made of: images (image.go), folders of the clear
// tier (folder.go), or folders on the disks of device.json (ondisk.go). What differs between
// them is said here, or by their backings; the rest of the package does not ask.
type kind interface {
	// tier is where the volumes lie; "" for disks.
	tier() persist.Tier
	// keyTier is the tier whose key vouches for the volumes. own: they need that key to be
	// opened. The others can be used without, see Store.authenticate.
	keyTier() (tier persist.Tier, own bool)
	// path is the volume's path: Volume.Path.
	path(l persist.Layout, id ID) string
	// recordFile is the file of a volume's record; "" where the record is a token of the
	// image's header.
	recordFile(path string) string
	// content is the place of a volume's content; revision is the one that it belongs to.
	content(r Record, revision string) place
	// notImage says why options of images mean nothing here; "" where they do.
	notImage(o Options) string
	// fit leaves out the options that mean nothing here.
	fit(o Options) Options
	// sweep removes what a crash left half made, or half removed, in the volumes' folder.
	sweep(ctx context.Context, dir string) error
	// of is a volume of this kind, to be worked on.
	of(s *Store, v Volume) backing
}

// backing is one volume, to be worked on. The caller has locked the volume.
type backing interface {
	// create makes the volume. What fails leaves nothing.
	create(ctx context.Context) error
	// within mounts the volume's file system at a private place for the length of f.
	within(ctx context.Context, f func(root string) error) error
	// opened is the number of the device that the volume is open as (see unix.Mkdev); 0 when
	// nothing uses it, and for a volume without a device of its own.
	opened() (uint64, error)
	// mounts tells the volume's mounts from others; nil when there are none.
	mounts() (func(*mountinfo.Info) bool, error)
	// users asks the kernel who uses the volume, of which this store has nothing mounted; ""
	// for nobody.
	users() (string, error)
	// heal takes down what an earlier process mounted for docker and nobody uses, see
	// Store.Heal.
	heal(ctx context.Context) error
	// sizes are the bytes of the volume's device, 0 where there is no bound, and those that
	// the volume occupies on the disk, 0 where nobody counts them.
	sizes() (device, occupied int64, err error)
	// destroy destroys what the volume consists of. Nothing uses it.
	destroy(ctx context.Context) error
}

// kinds are all the places that volumes lie in.
var kinds = []kind{images{persist.Vault}, images{persist.Unsealed}, folders{}, onDisks{}}

// kindOf is the kind of a volume with some options. A volume that lies in no tier lies on a
// disk.
func kindOf(o Options) kind {
	switch {
	case o.Disk != "" || o.Tier == "":
		return onDisks{}
	case o.Tier == persist.Clear:
		return folders{}
	}
	return images{o.Tier}
}

// folderOf is the folder that the volumes of a kind, or their records, lie in.
func folderOf(k kind, l persist.Layout) string { return filepath.Dir(k.path(l, ID{})) }

func (v Volume) kind() kind { return kindOf(v.Options) }

// IsImage says whether the volume is an encrypted image of its own.
func (v Volume) IsImage() bool {
	_, is := v.kind().(images)
	return is
}

// ownKey says whether nobody opens the volume without the key of its tier.
func (v Volume) ownKey() bool {
	_, own := v.kind().keyTier()
	return own
}

// recordFile is the file of the volume's record; "" where the record is in the image.
func (v Volume) recordFile() string { return v.kind().recordFile(v.Path) }

// bare says whether the volume's record lies in a file without authentication.
func (v Volume) bare() bool { return v.recordFile() != "" && v.MAC == "" }

func (s *Store) backing(v Volume) backing { return v.kind().of(s, v) }

// part is what folder and onDisk share: they are parts of a file system that others use too.
type part struct {
	Volume
	store *Store
}

func (part) opened() (uint64, error) { return 0, nil }

// heal implements backing. Not every kernel's word is heard here on who else uses a part of
// a file system: a managed plugin sees no other process. Docker says when a volume is to go;
// until then such a mount costs nothing.
func (p part) heal(context.Context) error {
	u, err := p.store.uses(p.ID())
	if err != nil {
		return err
	}
	return p.store.keepMounted(p.Volume, u)
}

// usersOf names the mounts that is picks, in every mount namespace.
func (p part) usersOf(is func(*mountinfo.Info) bool, err error) (string, error) {
	if p.Damage != nil {
		return "", nil // what it would be mounted as cannot be told
	}
	if err != nil {
		return "", err
	}
	found, err := mounts.Everywhere(is)
	if err != nil || len(found) == 0 {
		return "", err
	}
	var at []string
	for _, m := range found {
		at = append(at, fmt.Sprintf("%s (of process %s)", m.Mountpoint, m.Process))
	}
	return "mounted at " + strings.Join(at[:min(len(at), mounts.MostHolders)], ", "), nil
}
