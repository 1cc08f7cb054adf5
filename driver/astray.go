package driver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// clearMountPoint removes the mount point of a layer that is not mounted, and what was
// written into it.
//
// dockerd that starts while a plugin of an earlier dockerd still runs ends that one,
// unmounts its propagated mount and starts a new plugin all at once (moby,
// plugin/manager.go, HandleExitEvent and reload). Where the unmounting comes late, the
// new plugin's mounts never reach dockerd, and whoever writes to a container writes to
// the plain directory below: in the clear, and to no layer. That must not go on, so it
// is an error, the files are deleted, and Fatal is told: a plugin that ends is started
// anew by dockerd, and then its mounts are seen.
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
		d.log.DebugContext(ctx, "mount point stays", "layer", id, "error", err)
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
	err = fmt.Errorf("%w, in the clear, at %s: dockerd did not see the plugin's mount; they were deleted, repeat what failed", ErrAstray, s.merged(id))
	if rmErr := dir.RemoveAll(mergedName); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("delete them by hand: %w", rmErr))
	}
	d.log.ErrorContext(ctx, "files were written beside a layer", "layer", id, "error", err)
	return err
}
