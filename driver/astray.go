package driver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// clearMountPoint removes the mount point of an unmounted layer, with all files in it.
//
// A dockerd that starts while the plugin of an earlier dockerd still runs stops that
// plugin, unmounts its propagated mount and starts a new plugin concurrently (moby,
// plugin/manager.go, HandleExitEvent and reload). If the unmount comes late, mounts of
// the new plugin never reach dockerd, and a container writes its files to the plain
// directory below: unencrypted, and to no layer. So this is an error: the files are
// deleted, and Fatal is called. dockerd restarts a plugin that ends, and then sees its
// mounts.
func (d *Driver) clearMountPoint(ctx context.Context, s *session, id string) error {
	err := d.removeMountPoint(ctx, s, id)
	if errors.Is(err, ErrAstray) {
		d.cfg.Fatal(err)
	}
	return err
}

func (d *Driver) removeMountPoint(ctx context.Context, s *session, id string) error {
	err := os.Remove(s.merged(id))
	switch {
	case err == nil || errors.Is(err, os.ErrNotExist):
		return nil
	case !errors.Is(err, unix.ENOTEMPTY):
		// An empty directory does no harm: the next Get uses it, Remove removes it.
		d.log.DebugContext(ctx, "mount point was not removed", "layer", id, "error", err)
		return nil
	}
	// A mount hides what is below it, so these cannot be a layer's own files.
	if mounted, err := mounts.IsMounted(s.merged(id)); err != nil || mounted {
		return err
	}
	dir, err := os.OpenRoot(s.dir(id))
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrAstray, s.merged(id), err)
	}
	defer func() { _ = dir.Close() }()
	err = fmt.Errorf("%w, unencrypted, at %s: dockerd did not see the mount of the plugin", ErrAstray, s.merged(id))
	if rmErr := dir.RemoveAll(mergedName); rmErr != nil {
		err = fmt.Errorf("%w; %w: %w", err, ErrNotDeleted, rmErr)
	} else {
		err = fmt.Errorf("%w; files were deleted", err)
	}
	d.log.ErrorContext(ctx, "files were written outside a layer", "layer", id, "error", err)
	return err
}
