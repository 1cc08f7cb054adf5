package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"

	"layervault/internal/durable"
	"layervault/internal/mounts"
	"layervault/persist"
)

// Names on a disk, Pantavisor's.
const (
	diskPermanent = "perm"
	diskRevision  = revisionDir
	diskBoot      = "boot"
)

// DefaultPlatform is the folder on a disk of volumes that name no platform.
const DefaultPlatform = "docker"

// recordSuffix ends the name of the record of a volume on a disk.
const recordSuffix = ".json"

// onDisks are the volumes on the disks of device.json. Each is a folder, or one for each
// revision, in a file system that others use too; its record lies in the store's state.
type onDisks struct{}

func (onDisks) tier() persist.Tier { return "" }

func (onDisks) keyTier() (persist.Tier, bool) { return persist.Vault, false }

func (onDisks) path(l persist.Layout, id ID) string {
	return filepath.Join(l.VolumeState(), onDisksDir, id.String()+recordSuffix)
}

func (onDisks) recordFile(path string) string { return path }

func (onDisks) content(r Record, revision string) place {
	platform := platformOf(r.Options)
	dir := dirOnDisk(r.Name, platform)
	switch r.Options.Persistence {
	case Revision:
		return place{dir: path.Join(diskRevision, revision, platform, dir)}
	case Boot:
		return place{
			dir:    path.Join(diskBoot, platform, dir),
			marker: path.Join(diskBoot, platform, "."+dir+"."+bootFile),
		}
	}
	return place{dir: path.Join(diskPermanent, platform, dir)}
}

func (onDisks) notImage(o Options) string { return fmt.Sprintf("set by disk %s", o.Disk) }

func (onDisks) fit(o Options) Options { return o.withoutImage() }

// sweep implements kind: a record is one rename, whose temporary file the next one overwrites.
func (onDisks) sweep(context.Context, string) error { return nil }

func (onDisks) of(s *Store, v Volume) backing { return onDisk{part{v, s}} }

// onDisk is a volume on a disk.
type onDisk struct{ part }

// create only remembers the volume: its directory is made when it is first mounted, as
// Pantavisor does.
func (d onDisk) create(context.Context) error {
	data, err := d.encodeFile()
	if err != nil {
		return err
	}
	name := filepath.Join(onDisksDir, filepath.Base(d.Path))
	return durable.WriteFile(d.store.state, filepath.Join(onDisksDir, "."+d.ID().String()+".tmp"), name, data, 0o600)
}

func (d onDisk) within(ctx context.Context, f func(root string) error) (err error) {
	at, release, err := mounts.MakeTemp(d.store.cfg.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if d.store.cfg.Disks == nil {
		return noDisks(d.Options.Disk)
	}
	if err := d.store.cfg.Disks.MountAt(ctx, d.Options.Disk, at); err != nil {
		return fmt.Errorf("disk %s: %w", d.Options.Disk, err)
	}
	return f(at)
}

func (d onDisk) mounts() (func(*mountinfo.Info) bool, error) {
	return func(m *mountinfo.Info) bool { return onDiskRoot(d.Record, m.Root) }, nil
}

func (d onDisk) users() (string, error) { return d.usersOf(d.mounts()) }

func (onDisk) sizes() (device, occupied int64, err error) { return 0, 0, nil }

// destroy removes the volume's folders from its disk, then its record. The folder of a damaged
// volume is unknown, and stays.
func (d onDisk) destroy(ctx context.Context) error {
	if d.Damage == nil {
		if err := d.store.withinRoot(ctx, d.Volume, d.removeContent); err != nil {
			return err
		}
	}
	if err := d.store.state.Remove(filepath.Join(onDisksDir, filepath.Base(d.Path))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(d.store.state, onDisksDir)
}

func (d onDisk) removeContent(root *os.Root) (err error) {
	revisions := []string{""}
	if d.Options.Persistence == Revision && d.Options.Revision == "" {
		if revisions, err = subdirs(root, diskRevision); err != nil {
			return err
		}
	}
	for _, revision := range revisions {
		p, err := placeOf(d.Record, revision)
		if err != nil {
			return err
		}
		if err := removeAllIn(root, p.dir); err != nil {
			return err
		}
		if p.marker != "" {
			if err := root.Remove(p.marker); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// resolveDisk puts a disk's own name in place of an alias. There must be such a disk.
func (s *Store) resolveDisk(o *Options) error {
	if o.Disk == "" {
		return nil
	}
	if s.cfg.Disks == nil {
		return noDisks(o.Disk)
	}
	name, err := s.cfg.Disks.Resolve(o.Disk)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDisk, err)
	}
	o.Disk = name
	return nil
}

func noDisks(wanted string) error {
	return fmt.Errorf("%w: %s: no device.json is configured (setting disks)", ErrNoDisk, wanted)
}

// sameFolder reports whether two generations with these options share one folder on a disk: the
// folder has the volume's name only.
func sameFolder(a, b Options) bool { return a.Disk != "" && a.Disk == b.Disk }

func platformOf(o Options) string {
	if o.Platform == "" {
		return DefaultPlatform
	}
	return o.Platform
}

// dirOnDisk is the folder of a volume below its platform's folder. Docker's volumes share one
// name space, and each platform has its own: of a name that begins with the platform's name
// and a dot, the rest is the folder.
func dirOnDisk(name, platform string) string {
	if rest := len(platform) + 1; len(name) > rest && name[:rest] == platform+"." {
		return name[rest:]
	}
	return name
}

// onDiskRoot reports whether a mount's root is the content of a volume on a disk.
func onDiskRoot(r Record, root string) bool {
	platform := platformOf(r.Options)
	tail := path.Join("/", platform, dirOnDisk(r.Name, platform))
	rest, ok := strings.CutSuffix(root, tail)
	if !ok {
		return false
	}
	switch r.Options.Persistence {
	case Permanent:
		return path.Base(rest) == diskPermanent
	case Boot:
		return path.Base(rest) == diskBoot
	}
	return path.Base(path.Dir(rest)) == diskRevision
}
