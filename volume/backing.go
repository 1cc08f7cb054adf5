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

// kind is a kind of volume: images (image.go), folders of the clear tier (folder.go), or
// folders on the disks of device.json (ondisk.go). All differences between kinds are here and
// in their backings; the rest of the package does not distinguish them.
type kind interface {
	// tier is where the volumes lie; "" for disks.
	tier() persist.Tier
	// keyTier is the tier whose key authenticates the volumes. own: the volumes cannot be
	// opened without that key. The others can be used without, see Store.authenticate.
	keyTier() (tier persist.Tier, own bool)
	// path is the volume's path: Volume.Path.
	path(l persist.Layout, id ID) string
	// recordFile is the file of a volume's record; "" where the record is a token of the
	// image's header.
	recordFile(path string) string
	// content is the place of a volume's content; revision is the one that it belongs to.
	content(r Record, revision string) place
	// notImage is the reason why options of images are not allowed; "" for images.
	notImage(o Options) string
	// fit removes the options that this kind does not have.
	fit(o Options) Options
	// sweep removes incomplete volumes that a crash left in the volumes' folder.
	sweep(ctx context.Context, dir string) error
	// of is the backing of a volume of this kind.
	of(s *Store, v Volume) backing
}

// backing has the operations on one volume. The caller has locked the volume.
type backing interface {
	// create makes the volume. After an error nothing is left.
	create(ctx context.Context) error
	// within mounts the volume's file system at a private place while f runs.
	within(ctx context.Context, f func(root string) error) error
	// opened is the number of the volume's open device (see unix.Mkdev); 0 if nothing uses
	// the volume, and for a volume without a device of its own.
	opened() (uint64, error)
	// mounts selects the volume's mounts; nil if there are none.
	mounts() (func(*mountinfo.Info) bool, error)
	// users asks the kernel for users of the volume, which this store has not mounted; "" for
	// none.
	users() (string, error)
	// heal removes unused mounts that an earlier process made for docker, see Store.Heal.
	heal(ctx context.Context) error
	// sizes are the bytes of the volume's device, 0 if there is no limit, and the bytes that
	// the volume occupies on the disk, 0 if unknown.
	sizes() (device, occupied int64, err error)
	// destroy destroys the volume, which nothing uses.
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

// IsImage reports whether the volume is an encrypted image of its own.
func (v Volume) IsImage() bool {
	_, is := v.kind().(images)
	return is
}

// ownKey reports whether the volume cannot be opened without the key of its tier.
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

// heal implements backing. A managed plugin does not see other processes, so other users of a
// part of a file system are unknown here. The mount stays until docker removes the volume; it
// costs nothing until then.
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
		return "", nil // its mounts cannot be identified
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
