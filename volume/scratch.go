package volume

import (
	"context"
	"errors"
	"fmt"

	"layervault/internal/mounts"
	"layervault/persist"
)

// within mounts a volume's file system at a private place for the length of f, which gets
// that place and, for an image, its device.
func (s *Store) within(ctx context.Context, v Volume, f func(root string, dev Device) error) (err error) {
	if v.Options.Disk == "" && v.Options.Tier == persist.Clear {
		return f(v.Path, nil)
	}
	at, release, err := mounts.MakeTemp(s.cfg.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if v.Options.Disk != "" {
		if s.cfg.Disks == nil {
			return fmt.Errorf("%w: %s: no device.json is configured (setting disks)", ErrNoDisk, v.Options.Disk)
		}
		if err := s.cfg.Disks.MountAt(ctx, v.Options.Disk, at); err != nil {
			return fmt.Errorf("disk %s: %w", v.Options.Disk, err)
		}
		return f(at, nil)
	}
	dev, err := s.device(v, at)
	if err != nil {
		return err
	}
	if err := dev.Get(ctx); err != nil {
		return err
	}
	return f(at, dev)
}
