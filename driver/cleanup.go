package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"layervault/internal/mounts"
	"layervault/layer"
)

// Cleanup is called when dockerd ends for good: no container of it runs any more. It
// unmounts all remaining mounts and closes warm images. A mount in use stays, and
// counts as one Get for the next dockerd.
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
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return strings.HasPrefix(m.Mountpoint, s.home+"/") })
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, m := range infos {
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
	switch err := mounts.Unmount(at); {
	case errors.Is(err, mounts.ErrBusy):
		d.log.WarnContext(ctx, "layer is in use and stays mounted", "layer", id, "dir", at)
		d.counts.set(id, 1)
		return nil
	case err != nil:
		return err
	}
	d.counts.set(id, 0)
	return d.clearMountPoint(ctx, s, id)
}

// sweepHome finishes interrupted removals of layers: it removes the mount and the
// directory, if empty. Files written outside an existing layer during an earlier run of
// the plugin are deleted.
func (d *Driver) sweepHome(ctx context.Context, s *session) error {
	entries, err := os.ReadDir(s.home)
	if err != nil {
		return fmt.Errorf("read the home directory: %w", err)
	}
	ids, err := s.store.IDs()
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := e.Name()
		if layer.ValidateID(id) != nil || !e.IsDir() {
			continue
		}
		if _, exists := slices.BinarySearch(ids, id); exists {
			if err := d.sweepAstray(ctx, s, id); err != nil {
				return err
			}
			continue
		}
		err := mounts.DetachAll(s.merged(id))
		for _, dir := range []string{s.merged(id), s.dir(id)} {
			if rmErr := os.Remove(dir); err == nil && rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
				err = rmErr
			}
		}
		if err != nil {
			d.log.WarnContext(ctx, "cannot remove leftover of a removed layer", "dir", s.dir(id), "error", err)
		}
	}
	return nil
}

// sweepAstray is removeMountPoint for a layer that may be mounted: its mount point stays.
func (d *Driver) sweepAstray(ctx context.Context, s *session, id string) error {
	// Nearly all have none, and asking the kernel for its mounts takes longer.
	if _, err := os.Lstat(s.merged(id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	mounted, err := mounts.IsMounted(s.merged(id))
	if err != nil || mounted {
		return err
	}
	if err := d.removeMountPoint(ctx, s, id); err != nil && !errors.Is(err, ErrAstray) {
		return err
	}
	return nil // ErrAstray is in the log already, and no request has failed
}
