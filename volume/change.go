package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
)

// Grow makes a volume's image larger, to size bytes, also while it is mounted.
func (s *Store) Grow(ctx context.Context, name string, size int64) error {
	v, unlock, err := s.lockToUse(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	im, err := s.imageOf(v)
	if err != nil {
		return fmt.Errorf("grow volume %s: %w", name, err)
	}
	if size < ext4.MinSize || size > MaxSize {
		return fmt.Errorf("grow volume %s: %w: size is %d bytes, must be %d to %d", name, ErrBadOption, size, ext4.MinSize, int64(MaxSize))
	}
	err = im.mounted(ctx, func(at string, dev Device) error { return dev.Grow(ctx, at, size) })
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
	im, err := s.imageOf(v)
	if err != nil {
		return 0, 0, fmt.Errorf("trim volume %s: %w", name, err)
	}
	if before, err = allocated(v.Path); err != nil {
		return 0, 0, err
	}
	err = im.within(ctx, func(fs string) error {
		// Deleted blocks are free only after the journal was committed.
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

// With the mount option discard the file system frees space in the background, trimmed space
// included. Two equal samples in a row end the wait.
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

// Purge replaces a volume by a new, empty generation with the changed options (zero values
// keep the old ones), and removes the old generation. Nothing may use the volume.
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
	// A generation of this host; the controller's next one comes after it.
	r := newRecord(v.Name, Request{Options: v.Options.with(change), UUID: v.UUID, Generation: v.asked()}, v.Local+1)
	return s.replace(ctx, v, r)
}

// with gives options changed by others.
func (o Options) with(c Options) Options {
	if c.Tier != "" && c.Tier != o.Tier || c.Disk != "" && c.Disk != o.Disk {
		// The place of a volume decides which options it has.
		o.Tier, o.Disk = c.Tier, c.Disk
		o = kindOf(o).fit(o)
	}
	if c.Size != 0 {
		o.Size = c.Size
	}
	if c.Sector != 0 {
		o.Sector = c.Sector
	}
	if c.Inodes != 0 {
		o.Inodes = c.Inodes
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

// withoutImage leaves out the options of images.
func (o Options) withoutImage() Options {
	o.Size, o.Cipher, o.Sector, o.Inodes, o.MountOpts = 0, "", 0, 0, ""
	return o
}

// replace makes the next generation and removes the present one. The volume is locked.
func (s *Store) replace(ctx context.Context, old Volume, next Record) (Volume, error) {
	if sameFolder(old.Options, next.Options) {
		// The folder is emptied first.
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
