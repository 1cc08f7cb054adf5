package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
	"layervault/internal/durable"
	"layervault/persist"
)

// Grow makes a volume's image larger, to size bytes, also while it is mounted.
func (s *Store) Grow(ctx context.Context, name string, size int64) error {
	v, unlock, err := s.lockVolume(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if !v.IsImage() {
		return fmt.Errorf("grow volume %s: %w: it has no size of its own", name, ErrNotHere)
	}
	if size < ext4.MinSize || size > MaxSize {
		return fmt.Errorf("grow volume %s: %w: size of %d bytes", name, ErrBadOption, size)
	}
	err = s.within(ctx, v, func(_ string, dev Device) error { return dev.Grow(ctx, size) })
	if err != nil {
		return fmt.Errorf("grow volume %s: %w", name, err)
	}
	return nil
}

// Trim gives the space of deleted files back to the disk that the image lies on, and
// returns how many bytes the image occupied before and after.
func (s *Store) Trim(ctx context.Context, name string) (before, after int64, err error) {
	v, unlock, err := s.lockVolume(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	if !v.IsImage() {
		return 0, 0, fmt.Errorf("trim volume %s: %w: it has no image of its own", name, ErrNotHere)
	}
	if before, err = allocated(v.Path); err != nil {
		return 0, 0, err
	}
	err = s.within(ctx, v, func(fs string, _ Device) error {
		// What was deleted just now is free only when the journal says so.
		if err := syncFS(fs); err != nil {
			return err
		}
		_, err := ext4.Trim(fs)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("trim volume %s: %w", name, err)
	}
	after, err = settled(ctx, v.Path)
	return before, after, err
}

// With the mount option discard the file system gives space back in the background, what
// it was told to trim included. A sample that equals the one before is taken for the end.
const (
	samplePause = 100 * time.Millisecond
	samples     = 50
)

func settled(ctx context.Context, name string) (n int64, err error) {
	last := int64(-1)
	for range samples {
		if n, err = allocated(name); err != nil || n == last {
			return n, err
		}
		last = n
		select {
		case <-ctx.Done():
			return n, context.Cause(ctx)
		case <-time.After(samplePause):
		}
	}
	return n, nil
}

func syncFS(at string) error {
	dir, err := os.Open(at)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return unix.Syncfs(int(dir.Fd()))
}

// allocated is how many bytes of a file, or of everything in a folder, are on the disk.
func allocated(name string) (n int64, err error) {
	err = filepath.WalkDir(name, func(at string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return &os.PathError{Op: "stat", Path: at, Err: err}
		}
		n += st.Blocks * 512
		return nil
	})
	return n, err
}

// Remove removes a volume with all its generations: the keys of its images first. ErrInUse
// while anything uses it. What docker forgot to unmount does not count.
func (s *Store) Remove(ctx context.Context, name string) error {
	v, unlock, err := s.lockVolume(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := s.generations(ctx, v.UUID)
	if err != nil {
		return err
	}
	// The latest goes last: a crash in between leaves the volume as it was.
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Damage != nil {
			continue
		}
		if err := s.remove(ctx, all[i]); err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
	}
	return nil
}

// remove removes one generation. The volume is locked.
func (s *Store) remove(ctx context.Context, v Volume) error {
	if v.IsImage() {
		used, err := s.release(ctx, v)
		if err != nil {
			return err
		}
		if used {
			return s.inUse(v)
		}
	} else if err := s.releaseShared(v); err != nil {
		return err
	}
	var err error
	switch {
	case v.Options.Disk != "":
		err = s.removeOnDisk(ctx, v)
	case v.Options.Tier == persist.Clear:
		err = s.removeFolder(v)
	default:
		var dev Device
		if dev, err = s.device(v, ""); err == nil {
			err = dev.Remove(ctx)
		}
	}
	s.catalog.forget(v.Path)
	return err
}

// inUse says who uses a volume's image.
func (s *Store) inUse(v Volume) error {
	dev, err := s.device(v, "")
	if err != nil {
		return err
	}
	number, err := dev.Opened()
	if err != nil {
		return err
	}
	who := HoldersOfDevice(number)
	if at, err := s.HostMounts(v); err == nil && len(at) > 0 {
		who = "mounted at " + strings.Join(at, ", ") + "; " + who
	}
	return fmt.Errorf("%w: %s", ErrInUse, who)
}

// releaseShared takes down docker's mounts of a volume that is a part of a larger file
// system. ErrInUse when it is mounted elsewhere on this host.
func (s *Store) releaseShared(v Volume) error {
	at, err := s.HostMounts(v)
	if err != nil {
		return err
	}
	elsewhere, err := s.dockersElsewhere(v)
	if err != nil {
		return err
	}
	if at = append(at, elsewhere...); len(at) > 0 {
		return fmt.Errorf("%w: mounted at %s", ErrInUse, strings.Join(at, ", "))
	}
	u, err := s.uses(v.ID())
	if err != nil {
		return err
	}
	for _, dir := range u.dirs() {
		if err := unmountDir(filepath.Join(s.cfg.Mounts, dir)); err != nil {
			return err
		}
	}
	return s.keepUses(v.ID(), nil)
}

// removeFolder renames the folder, so that it is no volume any more, and then empties it.
func (s *Store) removeFolder(v Volume) error {
	tmp := filepath.Join(filepath.Dir(v.Path), "."+filepath.Base(v.Path)+".tmp-remove")
	if err := os.RemoveAll(tmp); err != nil { // of an earlier generation's crash
		return err
	}
	if err := os.Rename(v.Path, tmp); err != nil {
		return err
	}
	return os.RemoveAll(tmp)
}

// removeOnDisk removes the volume's folders from its disk, then its record.
func (s *Store) removeOnDisk(ctx context.Context, v Volume) error {
	err := s.within(ctx, v, func(fs string, _ Device) error {
		root, err := os.OpenRoot(fs)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		revisions := []string{""}
		if v.Options.Persistence == Revision && v.Options.Revision == "" {
			if revisions, err = subdirs(root, diskRevision); err != nil {
				return err
			}
		}
		for _, revision := range revisions {
			p, err := placeOf(v.Record, revision)
			if err != nil {
				return err
			}
			if err := root.RemoveAll(p.dir); err != nil {
				return err
			}
			if p.marker != "" {
				if err := root.Remove(p.marker); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.state.Remove(filepath.Join(onDisksDir, filepath.Base(v.Path))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(s.state, onDisksDir)
}

// subdirs lists the directories in one directory; none where that is missing.
func subdirs(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Purge begins a volume anew: a new, empty generation, as change says (zero values: as it
// was), and the old one is removed. Nothing may use it.
//
// A crash leaves the old generation, both, or the new one: with both, the new one is the
// volume, and GC removes the other.
func (s *Store) Purge(ctx context.Context, name string, change Options) (Volume, error) {
	if err := s.resolveDisk(&change); err != nil {
		return Volume{}, fmt.Errorf("purge volume %s: %w", name, err)
	}
	v, unlock, err := s.lockVolume(ctx, name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	r := s.newRecord(v.Name, Request{Options: v.Options.with(change), UUID: v.UUID, Generation: v.Generation + 1})
	return s.replace(ctx, v, r)
}

// with gives options changed by others.
func (o Options) with(c Options) Options {
	if c.Tier != "" && c.Tier != o.Tier || c.Disk != "" && c.Disk != o.Disk {
		// Where a volume lies decides what else can be said of it.
		o.Tier, o.Disk = c.Tier, c.Disk
		if c.Tier == persist.Clear || c.Disk != "" {
			o.Size, o.Cipher, o.Sector, o.MountOpts = 0, "", 0, ""
		}
		if c.Disk == "" {
			o.Platform = ""
		}
	}
	if c.Size != 0 {
		o.Size = c.Size
	}
	if c.Sector != 0 {
		o.Sector = c.Sector
	}
	for _, f := range []struct{ to, from *string }{
		{&o.Platform, &c.Platform}, {&o.Revision, &c.Revision}, {&o.Cipher, &c.Cipher}, {&o.MountOpts, &c.MountOpts},
		{(*string)(&o.Persistence), (*string)(&c.Persistence)},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if o.Persistence != Revision {
		o.Revision = ""
	}
	return o
}

// replace makes the next generation and removes the present one. The volume is locked.
func (s *Store) replace(ctx context.Context, old Volume, next Record) (Volume, error) {
	if old.Options.Disk != "" && old.Options.Disk == next.Options.Disk {
		// Both are the same folder on the disk: it is emptied first.
		if err := s.remove(ctx, old); err != nil {
			return Volume{}, fmt.Errorf("purge volume %s: %w", old.Name, err)
		}
		return s.make(ctx, next)
	}
	if old.IsImage() {
		used, err := s.release(ctx, old)
		if err == nil && used {
			err = s.inUse(old)
		}
		if err != nil {
			return Volume{}, fmt.Errorf("purge volume %s: %w", old.Name, err)
		}
	} else if err := s.releaseShared(old); err != nil {
		return Volume{}, fmt.Errorf("purge volume %s: %w", old.Name, err)
	}
	v, err := s.make(ctx, next)
	if err != nil {
		return Volume{}, err
	}
	if err := s.remove(ctx, old); err != nil {
		return Volume{}, fmt.Errorf("remove generation %d of volume %s: %w", old.Generation, old.Name, err)
	}
	return v, nil
}

// Collected is what GC did with one generation that is no volume any more.
type Collected struct {
	Volume Volume
	Err    error // why it is still there
}

// GC removes generations that were superseded, and what a crash left half done. One that
// resists does not keep the others.
func (s *Store) GC(ctx context.Context, dryRun bool) ([]Collected, error) {
	if !dryRun {
		if err := s.sweep(ctx); err != nil {
			return nil, err
		}
	}
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var done []Collected
	for _, v := range vs {
		if !v.Superseded {
			continue
		}
		c := Collected{Volume: v}
		if !dryRun {
			c.Err = s.collect(ctx, v)
		}
		done = append(done, c)
	}
	return done, nil
}

func (s *Store) collect(ctx context.Context, v Volume) error {
	unlock, err := s.lockName(ctx, v.Name)
	if err != nil {
		return err
	}
	defer unlock()
	return s.remove(ctx, v)
}
