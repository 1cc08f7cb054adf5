package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"layervault/crypt/ext4"
	"layervault/persist"
	"layervault/volume"
)

// VolumeStore makes volumes of package volume the destinations: an encrypted image for each, in
// the clear tier a folder. The content of a volume is one name: the disk of a VM, or the folder
// of a container.
type VolumeStore struct {
	Store  *volume.Store
	Layout persist.Layout
	// Mounts is a folder for mounts that last as long as a copy.
	Mounts string
}

// What a new volume has room for beyond its files.
const (
	// spareBytes are ext4's journal and tables, and something to work with.
	spareBytes = 96 << 20
	// spareShare is a part of the size for what ext4 keeps for itself: a sixteenth.
	spareShare = 16
	// bytesPerInode is ext4's own ratio; below it, inodes are asked for by number.
	bytesPerInode = 16 << 10
	// imageExtra is what an image takes on the disk beside its content, once its journal was
	// written to.
	imageExtra = 32 << 20
)

// volumeName is what docker calls a volume that was brought over.
func volumeName(id volume.ID) string { return "eve-" + id.UUID }

func tierOf(t Target) persist.Tier {
	if t.Area == ClearVolumes {
		return persist.Clear
	}
	return persist.Vault
}

// Look implements Places. A volume of the same UUID is in the way, whatever its generation and
// its tier, and so is a file or folder of EVE's own with the target's name.
func (v VolumeStore) Look(ctx context.Context, t Target) (bool, error) {
	id, err := volume.ParseID(t.Volume)
	if err != nil {
		return false, err
	}
	all, err := v.Store.List(ctx)
	if err != nil {
		return false, err
	}
	for _, other := range all {
		if other.UUID == id.UUID {
			return true, nil
		}
	}
	for _, tier := range []persist.Tier{persist.Vault, persist.Clear} {
		entries, err := os.ReadDir(v.Layout.Volumes(tier))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		for _, e := range entries {
			if persist.IsEVEName(e.Name()) && strings.HasPrefix(strings.ToLower(e.Name()), t.Volume+".") {
				return true, nil
			}
		}
	}
	return false, nil
}

// Room implements Places.
func (v VolumeStore) Room(_ context.Context, t Target) ([]Room, error) {
	at := v.Layout.Volumes(tierOf(t))
	if _, err := os.Stat(at); errors.Is(err, os.ErrNotExist) {
		at = v.Layout.Root // it will be made there
	}
	room, err := roomOn(at)
	if tierOf(t) != persist.Clear {
		room[0].Extra = imageExtra
	}
	return room, err
}

// Sweep implements Places: a run that is killed leaves the volume mounted that it fills, and the
// next one does not open that volume again if its copy is complete.
func (v VolumeStore) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(v.Mounts)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), volumeName(volume.ID{})) || !e.IsDir() {
			continue // not of this command
		}
		errs = append(errs, v.letGo(ctx, e.Name(), filepath.Join(v.Mounts, e.Name())))
	}
	return errors.Join(errs...)
}

// letGo unmounts a volume that was opened at a folder, and removes the folder.
func (v VolumeStore) letGo(ctx context.Context, name, at string) error {
	err := v.Store.UnmountHost(ctx, name, at)
	if err == nil || errors.Is(err, volume.ErrNotFound) {
		err = os.Remove(at)
	}
	return err
}

// Open implements Places. A volume that an interrupted run made is used as it is.
func (v VolumeStore) Open(ctx context.Context, t Target, need Need) (dir string, release func() error, err error) {
	id, err := volume.ParseID(t.Volume)
	if err != nil {
		return "", nil, err
	}
	name := volumeName(id)
	have, err := v.Store.Get(ctx, name)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		_, err = v.Store.Create(ctx, name, volume.Request{Options: v.options(t, need), UUID: id.UUID, Generation: id.Generation})
	case err == nil && have.ID() != id:
		err = fmt.Errorf("%w: volume %s is %s", ErrExists, name, have.ID())
	}
	if err != nil {
		return "", nil, err
	}
	at := filepath.Join(v.Mounts, name) // a folder with the volume's ID for a name is docker's
	if err := v.Store.MountAt(ctx, name, at); err != nil {
		return "", nil, err
	}
	return at, func() error { return v.letGo(context.WithoutCancel(ctx), name, at) }, nil
}

// options are those of a new volume: as large as the configuration says, or as its files need.
func (v VolumeStore) options(t Target, need Need) volume.Options {
	o := volume.Options{Tier: tierOf(t), Persistence: volume.Permanent}
	if o.Tier == persist.Clear {
		return o // a folder has no size
	}
	size := max(t.Size, need.Bytes) + need.Bytes/spareShare + spareBytes
	o.Size = min(size, volume.MaxSize) / ext4.BlockSize * ext4.BlockSize
	if inodes := need.Files + need.Files/spareShare + 1024; inodes > o.Size/bytesPerInode {
		o.Inodes = min(inodes, ext4.MostInodes)
	}
	return o
}
