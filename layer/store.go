package layer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"layervault/crypt"
	"layervault/internal/flock"
	"layervault/internal/keylock"
	"layervault/internal/mounts"
)

// Names in the root directory; see the package comment.
const (
	lockName     = ".lock"
	recordName   = "layer.json"
	tmpPrefix    = ".tmp-"
	removePrefix = tmpPrefix + "remove-"
)

// Config makes a Store.
type Config struct {
	// Root holds one directory per layer; it is made if absent.
	Root string
	// Scratch is a directory for private mounts. The store mounts a tmpfs of its own over
	// it, so that no layer mount is visible outside this mount namespace. "" is for a
	// store that only manages records and headers: it cannot mount.
	Scratch string
	// Keys authenticates the records. It must not be nil.
	Keys    crypt.KeySource
	Devices Devices
	// SweepDevices removes layervault devices that a dead process left behind; crypt.Sweep
	// in production, nil for none.
	SweepDevices func(context.Context) error
	// Corrupted lists the LUKS2 UUIDs of open images in which the kernel has read a changed
	// block; crypt.Corrupted in production, nil for a store that does not look.
	Corrupted func() ([]string, error)
	// Checkpoint, if set, is called at each step at which a crash leaves another
	// state on disk. Its error makes the step fail.
	Checkpoint func(op, id, step string) error
	Log        *slog.Logger // nil for slog.Default()
}

// Store is the layer store. It is safe for concurrent use: operations on one
// layer wait for each other, operations on different layers do not.
type Store struct {
	cfg     Config
	keys    crypt.KeySource // nil for a Reader
	root    *os.Root
	lock    *os.File
	log     *slog.Logger
	process string // names this process in fresh records
	locks   keylock.Locks
	index   index
	warm    warm
	changed changed

	mu      sync.Mutex
	records map[string]Record   // what was read or written; one per layer touched
	changes uint64              // counts writes to records
	broken  map[string]struct{} // fresh layers whose import broke off in this process
	packing string              // the directory in which Reseal makes an image, "" for none
	waiting bool                // an image that was sealed anew waits for its last user
	closed  bool
}

// Open takes ownership of the store at cfg.Root (ErrBusy when another process has it),
// removes leftovers of a crash, and prepares the scratch directory. It reads no record:
// its time is one readdir, whatever the number of layers.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	if cfg.Keys == nil {
		return nil, errors.New("open the layer store: no key to authenticate layer records")
	}
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("make the layer store: %w", err)
	}
	root, err := os.OpenRoot(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("open the layer store: %w", err)
	}
	s := &Store{
		cfg: cfg, keys: cfg.Keys, root: root, log: log, process: uuid.NewString(),
		records: make(map[string]Record), broken: make(map[string]struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}()
	if s.lock, err = lockStore(ctx, root, cfg.Root); err != nil {
		return nil, err
	}
	if cfg.Scratch != "" {
		if err := mounts.MountScratch(cfg.Scratch); err != nil {
			return nil, err
		}
	}
	if cfg.SweepDevices != nil {
		if err := cfg.SweepDevices(ctx); err != nil {
			return nil, fmt.Errorf("sweep leftover devices: %w", err)
		}
	}
	if err := s.sweep(ctx); err != nil {
		return nil, err
	}
	s.watch(ctx)
	return s, nil
}

// The lock of a killed process survives in a child such as mkfs between fork and exec.
// lockPatience is long against such a moment on a busy machine, and short against
// dockerd's timeout for a plugin, ten seconds.
const lockPatience = 3 * time.Second

// lockStore takes the lock that goes away with the process, however it ends.
func lockStore(ctx context.Context, root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the layer store: %w", err)
	}
	patient, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	err = flock.Lock(patient, f, flock.Exclusive)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, flock.ErrHeld) && ctx.Err() == nil:
		err = fmt.Errorf("%w: another layervault serves %s", ErrBusy, name)
	default:
		err = fmt.Errorf("lock the layer store: %w", err)
	}
	return nil, errors.Join(err, f.Close())
}

// Close closes warm images, the scratch mount and the lock. Mounts elsewhere stay: they
// belong to the kernel.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if already {
		return nil
	}
	s.unwatch()
	errs := []error{s.warm.dropAll()}
	if s.lock != nil && s.cfg.Scratch != "" {
		errs = append(errs, mounts.ReleaseScratch(s.cfg.Scratch))
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(append(errs, s.root.Close())...)
}

// lockLayer validates an id and waits for its lock.
func (s *Store) lockLayer(ctx context.Context, id string) (unlock func(), err error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	return s.locks.Lock(ctx, id)
}

// step reports a checkpoint.
func (s *Store) step(op, id, step string) error {
	if s.cfg.Checkpoint == nil {
		return nil
	}
	if err := s.cfg.Checkpoint(op, id, step); err != nil {
		return fmt.Errorf("%s layer %s: %s: %w", op, id, step, err)
	}
	return nil
}

// tmpLetters is the length of the random end of a temporary name.
const tmpLetters = 8

// tmpName makes a name the sweep knows.
func tmpName(prefix, id string) string { return prefix + id + "-" + uuid.NewString()[:tmpLetters] }

// imagePath is the absolute path of the image in a directory of the root.
func (s *Store) imagePath(dir string) string {
	return filepath.Join(s.cfg.Root, dir, ImageName)
}

// device makes the device of the image in a directory of the root.
func (s *Store) device(im Image, dir string) Device {
	im.Path = s.imagePath(dir)
	return s.cfg.Devices(im)
}

func recordPath(dir string) string { return path.Join(dir, recordName) }
