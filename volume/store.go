package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/persist"
)

// Names in the folder of the store's state.
const (
	lockFile     = "lock"
	mountsDir    = "mounts"
	onDisksDir   = "on-disks"
	revisionFile = "revision.json"
)

// Defaults of Config.
const (
	DefaultMounts  = "/var/lib/layervault/volumes"
	DefaultScratch = "/run/layervault-volumes"
	DefaultSize    = 64 << 30
)

// Disks are the disks of device.json.
type Disks interface {
	// Resolve gives the name of the disk that has this name or alias.
	Resolve(nameOrAlias string) (string, error)
	// MountAt mounts a disk's file system at a directory, once more if it is mounted
	// already.
	MountAt(ctx context.Context, name, at string) error
}

// Config makes a Store.
type Config struct {
	Layout persist.Layout
	// Mounts is where volumes are mounted for docker. Every mount point below it is made,
	// and removed, by the store.
	Mounts string
	// MountsGID is the group that may pass through Mounts: that of dockerd's remapped root.
	MountsGID int
	// Scratch is a folder for mounts that last for moments.
	Scratch string
	// Keys opens a tier. It is called each time that a key is needed, and may cache open
	// tiers.
	Keys func(ctx context.Context, tier persist.Tier) (crypt.KeySource, error)
	// Disks are the disks of device.json; nil for none.
	Disks       Disks
	DefaultSize int64 // of an image, in bytes
	CryptParams crypt.Params
	// Devices makes the images; nil for package crypt's.
	Devices Devices
	// BootID tells one boot from the next; "" asks the kernel.
	BootID string
	// Checkpoint, if set, is called at each step at which a crash leaves another state on
	// disk. Its error ends the operation there, as a crash does.
	Checkpoint func(step string) error
	Log        *slog.Logger // nil for slog.Default()
}

// Store is the store of volumes. It is safe for concurrent use, and several processes
// may use one at a time: operations on one volume wait for each other, operations on
// different volumes do not.
type Store struct {
	cfg     Config
	state   *os.Root // the folder of the store's state
	boot    string
	process string // names this process in the list of mounts
	log     *slog.Logger
	catalog *catalog
	// readOnly: the disk cannot be written through this mount of it. Volumes are mounted
	// read-only, and nothing is swept, made or counted.
	readOnly bool
}

// Open opens the store and removes leftovers of crashes. No key is needed.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	if cfg.Mounts == "" {
		cfg.Mounts = DefaultMounts
	}
	if cfg.Scratch == "" {
		cfg.Scratch = DefaultScratch
	}
	if cfg.DefaultSize == 0 {
		cfg.DefaultSize = DefaultSize
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Store{cfg: cfg, boot: cfg.BootID, process: uuid.NewString(), log: cfg.Log, catalog: newCatalog(cfg.Layout)}
	if s.cfg.Devices == nil {
		s.cfg.Devices = s.encrypted()
	}
	if s.boot == "" {
		if s.boot, err = BootID(); err != nil {
			return nil, err
		}
	}
	dir := cfg.Layout.VolumeState()
	if s.readOnly, err = onReadOnlyDisk(cfg.Layout.Root); err != nil {
		return nil, fmt.Errorf("open the volume store: %w", err)
	}
	if s.readOnly {
		if err := s.openReadOnly(dir); err != nil {
			return nil, err
		}
		return s, nil
	}
	for _, d := range []string{filepath.Join(dir, mountsDir), filepath.Join(dir, onDisksDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the volume store: %w", err)
		}
	}
	if s.state, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("open the volume store: %w", err)
	}
	if err := s.sweep(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes the store. Mounts stay.
func (s *Store) Close() error { return s.state.Close() }

// BootID is the kernel's name for this boot.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// sweep removes volumes that were being made or removed when a process died. Leftovers that
// cannot be removed are logged, and do not keep the store from opening: nothing reads them.
func (s *Store) sweep(ctx context.Context) error {
	for _, k := range kinds {
		dir := folderOf(k, s.cfg.Layout)
		err := k.sweep(ctx, dir)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			s.log.ErrorContext(ctx, "cannot remove what an earlier run left", "dir", dir, "error", err)
		}
	}
	if err := mounts.SweepTemp(s.cfg.Scratch); err != nil {
		s.log.WarnContext(ctx, "cannot sweep the scratch folder", "dir", s.cfg.Scratch, "error", err)
	}
	return nil
}

// errCrashed marks an operation that a Checkpoint ended: there is no clean-up after it.
var errCrashed = errors.New("ended by a checkpoint")

// step reports a checkpoint.
func (s *Store) step(at string) error {
	if s.cfg.Checkpoint == nil {
		return nil
	}
	if err := s.cfg.Checkpoint(at); err != nil {
		return fmt.Errorf("%s: %w: %w", at, errCrashed, err)
	}
	return nil
}
