package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/user"

	"layervault/internal/mounts"
	"layervault/layer"
)

// mergedName is the directory a layer is shown at, below <home>/<id>.
const mergedName = "merged"

func (s *session) dir(id string) string    { return filepath.Join(s.home, id) }
func (s *session) merged(id string) string { return filepath.Join(s.home, id, mergedName) }

// Get mounts a layer on its parents and returns the directory. Each Get wants a
// Put; further Gets give the same directory. A layer that was made to be read is
// shown read-only, any other can be written. When it fails, or ctx has ended before
// it answers, it leaves nothing.
func (d *Driver) Get(ctx context.Context, id, mountLabel string) (dir string, err error) {
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	n, mounted, err := d.count(s, id)
	if err != nil {
		return "", err
	}
	at := s.merged(id)
	if !mounted {
		if n > 0 {
			d.log.WarnContext(ctx, "a mounted layer was unmounted by another program; mounting it again", "layer", id, "dir", at)
		}
		if err := d.mount(ctx, s, id, at, mountLabel); err != nil {
			return "", fmt.Errorf("mount layer %s: %w", id, err)
		}
	}
	if ctx.Err() != nil {
		// The client has gone: no Put would follow.
		err := fmt.Errorf("mount layer %s: %w", id, context.Cause(ctx))
		if !mounted {
			err = errors.Join(err, mounts.DetachAll(at))
		}
		return "", err
	}
	d.counts.set(id, n+1)
	return at, nil
}

// Put takes one Get back; the last one unmounts. An unknown id is no error.
func (d *Driver) Put(ctx context.Context, id string) error {
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	n, mounted, err := d.count(s, id)
	if err != nil {
		return err
	}
	if n > 1 {
		d.counts.set(id, n-1)
		return nil
	}
	if mounted {
		if err := mounts.DetachAll(s.merged(id)); err != nil {
			return fmt.Errorf("unmount layer %s: %w", id, err)
		}
	}
	// An init layer will have the container's own put on it in a moment.
	if !strings.HasSuffix(id, initSuffix) {
		if err := s.store.Release(id); err != nil {
			d.log.WarnContext(ctx, "cannot close a warm image", "layer", id, "error", err)
		}
	}
	d.counts.set(id, 0)
	if err := d.clearMountPoint(ctx, s, id); err != nil {
		return fmt.Errorf("unmount layer %s: %w", id, err)
	}
	return nil
}

// begin is how every call on one layer starts: session, valid id, its lock.
func (d *Driver) begin(ctx context.Context, id string) (*session, func(), error) {
	if err := layer.ValidateID(id); err != nil {
		return nil, nil, err
	}
	s, err := d.session(ctx)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := d.locks.Lock(ctx, id)
	return s, unlock, err
}

// count says how often a layer is got, and whether it is mounted. What no
// longer is in memory counts as one if it is mounted.
func (d *Driver) count(s *session, id string) (n int, mounted bool, err error) {
	mounted, err = mounts.IsMounted(s.merged(id))
	if err != nil {
		return 0, false, err
	}
	n, known := d.counts.get(id)
	if !known && mounted {
		n = 1
	}
	return n, mounted, nil
}

// mount mounts a layer at a directory that it makes.
func (d *Driver) mount(ctx context.Context, s *session, id, at, mountLabel string) (err error) {
	r, err := s.store.Get(id)
	if err != nil {
		return err
	}
	d.counts.mounts(id)
	if r.Kind == layer.Fresh {
		// No tar was applied to it. It may be written to now.
		if _, err := s.store.MakeWritable(ctx, id, layer.CreateOptions{DefaultSize: s.size, IDMap: s.idmap}); err != nil {
			return err
		}
	}
	chain, err := s.stack.Open(ctx, id)
	if err != nil {
		return err
	}
	defer func() {
		// The mount keeps the images from here on.
		if closeErr := chain.Close(ctx); closeErr != nil {
			err = errors.Join(err, closeErr, mounts.DetachAll(at))
		}
	}()
	if err := makeMountPoint(s, id, at); err != nil {
		return err
	}
	return chain.Mount(at, mountLabel)
}

func makeMountPoint(s *session, id, at string) error {
	_, gid := s.idmap.RootPair()
	if err := user.MkdirAndChown(s.dir(id), homeMode, os.Getuid(), gid); err != nil {
		return fmt.Errorf("make the layer's directory: %w", err)
	}
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the mount point: %w", err)
	}
	return nil
}
