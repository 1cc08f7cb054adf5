package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/layer"
)

// Cleanup is dockerd going away for good: no container of it runs any more. It
// unmounts what is still mounted and lets warm images go. A mount that somebody
// works in stays, and counts as one Get for the next dockerd.
func (d *Driver) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	s := d.up
	d.mu.Unlock()
	if s == nil {
		return nil
	}
	ids, err := s.mountedIDs()
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, d.cleanupLayer(ctx, s, id))
	}
	if err := errors.Join(append(errs, s.store.Cool())...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// mountedIDs reads from the kernel which layers are mounted below home.
func (s *session) mountedIDs() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.home))
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	var ids []string
	for _, m := range mounts {
		rel, err := filepath.Rel(s.home, m.Mountpoint)
		if err != nil {
			continue
		}
		if id, name := filepath.Split(rel); name == mergedName && layer.ValidateID(filepath.Clean(id)) == nil {
			ids = append(ids, filepath.Clean(id))
		}
	}
	return ids, nil
}

func (d *Driver) cleanupLayer(ctx context.Context, s *session, id string) error {
	unlock, err := d.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	at := s.merged(id)
	switch err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); {
	case errors.Is(err, unix.EBUSY):
		d.log.WarnContext(ctx, "layer is still used; it stays mounted", "layer", id, "dir", at)
		d.counts.set(id, 1)
		return nil
	case err != nil && !errors.Is(err, unix.EINVAL): // EINVAL: unmounted meanwhile
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	d.counts.set(id, 0)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.DebugContext(ctx, "mount point stays", "layer", id, "error", err)
	}
	return nil
}
