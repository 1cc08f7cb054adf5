package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"layervault/internal/flock"
	"layervault/layer"
)

// Two locks keep a tier's users apart: that of the layer store (layer.Open), which one
// process has, and that of the volumes, which every process with the tier's key shares.
// A rotation takes both for itself. A plugin must not run beside a rotation: it holds the
// old key in memory, with which it would fail on images that are done, and make new ones.

// lockName is the lock in the folders of layers and volumes.
const lockName = ".lock"

// Lock takes both locks of the tier. Error: layer.ErrBusy.
func (c Contents) Lock() (unlock func() error, err error) {
	layers, err := lockFile(filepath.Join(c.Layout.Layers(c.Tier), lockName), flock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("lock the layer store: %w", err)
	}
	volumes, err := c.lockVolumes()
	if err != nil {
		return nil, errors.Join(err, layers.Close())
	}
	return func() error { return errors.Join(layers.Close(), volumes.Close()) }, nil
}

func (c Contents) lockVolumes() (*os.File, error) {
	f, err := lockFile(filepath.Join(c.Layout.Volumes(c.Tier), lockName), flock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("lock the volumes: %w", err)
	}
	return f, nil
}

// Share keeps a rotation off while the caller has the tier's key for volumes. Error:
// layer.ErrBusy.
func (c Contents) Share() (unlock func() error, err error) {
	f, err := lockFile(filepath.Join(c.Layout.Volumes(c.Tier), lockName), flock.Shared)
	if err != nil {
		return nil, fmt.Errorf("use the volumes of %s: %w", c.Tier, err)
	}
	if f == nil {
		return func() error { return nil }, nil
	}
	return f.Close, nil
}

// Errors of a tier that another process has: both are layer.ErrBusy too.
var (
	ErrServed   = errors.New("a plugin serves")
	ErrRotating = errors.New("the tier key is being rotated")
)

// A rotation of a few images is waited for.
const (
	sharePatience = 3 * time.Second
	sharePause    = 50 * time.Millisecond
)

// shareWaiting is Share, which waits for a short rotation.
func (c Contents) shareWaiting(ctx context.Context) (unlock func() error, err error) {
	for end := time.Now().Add(sharePatience); ; {
		unlock, err = c.Share()
		if !errors.Is(err, layer.ErrBusy) || time.Now().After(end) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(sharePause):
		}
	}
}

func openLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// lockFile locks a file that it makes. It does not wait. The file is nil where nothing can be
// written and nothing needs a lock.
func lockFile(path string, how flock.Mode) (*os.File, error) {
	f, err := openLock(path)
	if errors.Is(err, unix.EROFS) && how == flock.Shared {
		// A reader on a disk that cannot be written takes the lock of a file that is there: the
		// disk may be mounted for writing elsewhere. Where there is no such file, the key was
		// never rotated, and through this mount it cannot be.
		if f, err = os.Open(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := flock.TryLock(f, how); err != nil {
		_ = f.Close()
		if errors.Is(err, flock.ErrHeld) && how == flock.Shared {
			return nil, fmt.Errorf("%w: %w", layer.ErrBusy, ErrRotating)
		}
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("%w: %w %s", layer.ErrBusy, ErrServed, filepath.Dir(path))
		}
		return nil, err
	}
	return f, nil
}
