package area

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/internal/flock"
	"layervault/internal/keylock"
	"layervault/internal/mounts"
	"layervault/persist"
)

// DefaultScratch is where images are mounted for moments.
const DefaultScratch = "/run/layervault-areas"

// lockFile is the file with the areas' locks.
const lockFile = ".lock"

// Config makes a Set.
type Config struct {
	Layout persist.Layout
	// Keys opens a tier. It is called each time that a key is needed, and may cache open tiers.
	Keys   func(ctx context.Context, tier persist.Tier) (crypt.KeySource, error)
	Agents persist.Agents
	// Scratch is a folder for mounts that last for moments; "" for DefaultScratch.
	Scratch string
	// Size is that of a new area's file system, in bytes: more than this never fits. 0 for that
	// of the disk.
	Size int64
	// Floor is how much of the disk the areas leave free, in bytes; 0 for FloorOf.
	Floor  int64
	Params crypt.Params
	// Devices makes the images; nil for package crypt's.
	Devices Devices
	// Checkpoint, if set, is called at each step at which a crash leaves another state. Its
	// error ends the operation there, as a crash does.
	Checkpoint func(step string) error
	Log        *slog.Logger // nil for slog.Default()
}

// Set is the areas of one vault. It holds no state: the disk and the kernel are asked. It is
// safe for concurrent use, in several processes too.
type Set struct {
	cfg     Config
	devices Devices
	log     *slog.Logger
}

// New makes the set. It opens nothing.
func New(cfg Config) *Set {
	if cfg.Scratch == "" {
		cfg.Scratch = DefaultScratch
	}
	s := &Set{cfg: cfg, devices: cfg.Devices, log: cfg.Log}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.devices == nil {
		s.devices = s.encrypted
	}
	return s
}

// step reports a checkpoint.
func (s *Set) step(at string) error {
	if s.cfg.Checkpoint == nil {
		return nil
	}
	return s.cfg.Checkpoint(at)
}

// lock waits for the lock of an area, which ends with the process.
func (s *Set) lock(ctx context.Context, a persist.Area) (unlock func(), err error) {
	dir := s.cfg.Layout.AreaImages(persist.Vault)
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("area %s: %w: no folder %s; run layervault persist init", a, ErrAbsent, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock area %s: %w", a, err)
	}
	if err := flock.LockByte(ctx, f, flock.Exclusive, keylock.Offset(string(a))); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("wait for area %s: %w", a, err)
	}
	return func() { _ = f.Close() }, nil
}

// Create makes an area that is not there yet, and its mount point. made says whether there was
// none. The folder of the images must be there.
func (s *Set) Create(ctx context.Context, a persist.Area) (made bool, err error) {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := s.point(a); err != nil {
		return false, err
	}
	if err := s.step("point"); err != nil {
		return false, err
	}
	switch _, err := os.Lstat(s.cfg.Layout.AreaImage(a)); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	size := s.cfg.Size
	if size == 0 {
		room, err := s.Room()
		if err != nil {
			return false, err
		}
		size = max(room.Total, ext4.MinSize)
	}
	if err := s.devices(a).Create(ctx, size); err != nil {
		return false, fmt.Errorf("make area %s: %w", a, err)
	}
	return true, s.step("made")
}

// Sweep removes what interrupted calls left. Calls at work are left alone.
func (s *Set) Sweep(ctx context.Context) error {
	return errors.Join(crypt.SweepDir(ctx, s.cfg.Layout.AreaImages(persist.Vault)), mounts.SweepTemp(s.cfg.Scratch))
}
