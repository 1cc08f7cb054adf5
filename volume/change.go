package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
	"layervault/internal/durable"
	"layervault/persist"
)

// Grow makes a volume's image larger, to size bytes, also while it is mounted.
func (s *Store) Grow(ctx context.Context, name string, size int64) error {
	v, unlock, err := s.lockToUse(ctx, name)
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
	v, unlock, err := s.lockToUse(ctx, name)
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
//
// By its name, only what is authentic is removed, and of what is damaged only what the
// tier's list vouches for. By its ID, which is its file's name and no record's word,
// anything is, and nothing else with it: that is for what was refused.
func (s *Store) Remove(ctx context.Context, name string) error {
	v, unlock, err := s.lockAny(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	remove := []Volume{v}
	if v.ID().String() != name || v.Damage == nil {
		if err := s.authenticDamage(ctx, v); err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
		if remove, err = s.generations(ctx, v); err != nil {
			return err
		}
	}
	for _, one := range remove {
		if err := s.remove(ctx, one); err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
	}
	return nil
}

// authenticDamage is authenticate for a volume that is to be removed, and may be damaged:
// then its tier's list must know it.
func (s *Store) authenticDamage(ctx context.Context, v Volume) error {
	if v.Damage == nil {
		return s.authenticate(ctx, v, toChange)
	}
	if !v.Listed {
		return v.refusal()
	}
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil {
		return err
	}
	_, err = s.authenticList(keyTier(v.Options), keys)
	return err
}

// remove removes one generation. The volume is locked, and authentic, or damaged.
func (s *Store) remove(ctx context.Context, v Volume) error {
	if err := s.letGo(ctx, v); err != nil {
		return err
	}
	return s.unlisted(ctx, v, func() error {
		err := s.destroy(ctx, v)
		if err == nil {
			err = s.step("destroyed")
		}
		s.catalog.forget(v.Path)
		return err
	})
}

// unlisted takes a volume out of its tier's list around what destroys it. A crash leaves it
// as it was, or an entry without a volume, which says so and which GC removes.
func (s *Store) unlisted(ctx context.Context, v Volume, destroy func() error) error {
	if !v.Listed {
		return destroy()
	}
	tier := keyTier(v.Options)
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil {
		return err
	}
	mark := func(pending bool) func(l *list) error {
		return func(l *list) error {
			if e := l.find(v.where(), v.ID()); e != nil {
				e.Pending = pending
			}
			return nil
		}
	}
	if err := s.relist(ctx, tier, keys, mark(true)); err != nil {
		return err
	}
	if err := destroy(); err != nil {
		if errors.Is(err, errCrashed) {
			return err
		}
		return errors.Join(err, s.relist(context.WithoutCancel(ctx), tier, keys, mark(false)))
	}
	return s.relist(context.WithoutCancel(ctx), tier, keys, func(l *list) error {
		l.drop(v.where(), v.ID())
		return nil
	})
}

// letGo takes down what docker has mounted of a volume. ErrInUse, and everything as it was,
// when anybody uses it.
func (s *Store) letGo(ctx context.Context, v Volume) error {
	if v.missing {
		return s.keepUses(v.ID(), nil)
	}
	used, err := s.release(ctx, v)
	if err != nil {
		return err
	}
	if used != "" {
		return fmt.Errorf("%w: %s", ErrInUse, used)
	}
	return nil
}

// destroy destroys what a volume consists of. Nothing uses it.
func (s *Store) destroy(ctx context.Context, v Volume) error {
	var err error
	switch {
	case v.missing:
	case v.Damage != nil && v.onDisk:
		err = s.forgetOnDisk(v) // which folder was its own nobody can tell
	case v.onDisk:
		err = s.removeOnDisk(ctx, v)
	case v.Options.Tier == persist.Clear:
		err = s.removeFolder(v)
	default:
		var dev Device
		if dev, err = s.device(v, ""); err == nil {
			err = dev.Remove(ctx)
		}
	}
	return err
}

// removeFolder renames the folder, so that it is no volume any more, and then empties it.
// What forbids that, such as chattr +i, is taken away first, or the volume stays.
func (s *Store) removeFolder(v Volume) error {
	tmp := filepath.Join(filepath.Dir(v.Path), "."+filepath.Base(v.Path)+".tmp-remove")
	if err := removeAll(tmp); err != nil { // of an earlier generation's crash
		return err
	}
	if err := makeRemovable(v.Path); err != nil {
		return err
	}
	if err := os.Rename(v.Path, tmp); err != nil {
		return err
	}
	return removeAll(tmp)
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
	})
	if err != nil {
		return err
	}
	return s.forgetOnDisk(v)
}

// forgetOnDisk removes the record of a volume on a disk.
func (s *Store) forgetOnDisk(v Volume) error {
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
	if err := s.authenticate(ctx, v, toChange); err != nil {
		return Volume{}, fmt.Errorf("purge volume %s: %w", name, err)
	}
	// A generation of this host's own, which the controller's next one comes after.
	r := newRecord(v.Name, Request{Options: v.Options.with(change), UUID: v.UUID, Generation: v.asked()}, v.Local+1)
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
		return s.make(ctx, next, nil)
	}
	if err := s.letGo(ctx, old); err != nil {
		return Volume{}, fmt.Errorf("purge volume %s: %w", old.Name, err)
	}
	v, err := s.make(ctx, next, &old)
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
		if dryRun {
			c.Err = s.mayCollect(ctx, vs, v)
		} else {
			c.Err = s.collect(ctx, v)
		}
		done = append(done, c)
	}
	if dryRun {
		return done, nil
	}
	return done, s.gcLists(ctx)
}

func (s *Store) collect(ctx context.Context, v Volume) error {
	unlock, err := s.lockName(ctx, v.lockName())
	if err != nil {
		return err
	}
	defer unlock()
	// Under the lock it is looked for again: it may be somebody's volume by now.
	vs, err := s.List(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(vs, func(o Volume) bool { return o.ID() == v.ID() && o.where() == v.where() })
	if i < 0 || !vs[i].Superseded {
		return nil
	}
	if err := s.mayCollect(ctx, vs, vs[i]); err != nil {
		return err
	}
	return s.remove(ctx, vs[i])
}

// mayCollect says why a superseded generation is kept all the same: nothing is destroyed
// because of a volume that cannot be used itself, or of which nobody knows that it is ours.
func (s *Store) mayCollect(ctx context.Context, vs []Volume, v Volume) error {
	for _, o := range vs {
		if o.UUID != v.UUID || o.Superseded || o.Generation <= v.Generation {
			continue
		}
		if err := s.authenticate(ctx, o, toChange); err != nil {
			return fmt.Errorf("generation %d stays, as what superseded it cannot be used: %w", v.Generation, err)
		}
		return nil
	}
	return fmt.Errorf("generation %d of %s stays: nothing that superseded it is there", v.Generation, v.UUID)
}

// gcLists forgets what is pending in a list and not on the disk: nobody is making it. A tier
// that is locked keeps what it has.
func (s *Store) gcLists(ctx context.Context) error {
	for _, tier := range listTiers {
		l := s.catalog.list(tier)
		if l == nil || l.damage != nil {
			continue
		}
		for _, e := range l.Volumes {
			if _, err := os.Lstat(e.path(s.cfg.Layout)); !e.Pending || !errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err := s.forgetPending(ctx, tier, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) forgetPending(ctx context.Context, tier persist.Tier, e entry) error {
	unlock, err := s.lockName(ctx, e.Name)
	if err != nil {
		return err
	}
	defer unlock()
	keys, err := s.cfg.Keys(ctx, tier)
	if err != nil {
		s.log.DebugContext(ctx, "a locked tier's list is not tidied", "tier", tier, "reason", err)
		return nil
	}
	return s.relist(ctx, tier, keys, func(l *list) error {
		now := l.find(where(e.Options), e.id())
		if _, err := os.Lstat(e.path(s.cfg.Layout)); now != nil && now.Pending && errors.Is(err, os.ErrNotExist) {
			l.drop(where(e.Options), e.id())
		}
		return nil
	})
}
