package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
	"layervault/internal/mounts"
	"layervault/layer"
)

// ApplyDiff fills a layer from an uncompressed layer tar and answers its size, as
// DiffSize counts. A layer without content becomes a sealed image: all or nothing,
// durable when this answers. Into a layer that was written to, the tar is
// unpacked through its overlay, durable too, but not undone when it fails.
func (d *Driver) ApplyDiff(ctx context.Context, id, parent string, diff io.Reader) (int64, error) {
	s, unlock, err := d.begin(ctx, id)
	if err != nil {
		return 0, err
	}
	defer unlock()
	r, err := s.store.Get(id)
	if err != nil {
		return 0, err
	}
	if r.Parent != parent {
		return 0, fmt.Errorf("apply a diff to layer %s: %w: recorded parent is %q, request names %q", id, ErrParent, r.Parent, parent)
	}
	if r.Kind == layer.Writable {
		// A Get gives a writable image to a layer that was not made for a container; a mere read
		// must not prevent sealing.
		untouched := false
		if !r.ReadWrite {
			if untouched, err = s.untouched(ctx, r); err != nil {
				return 0, fmt.Errorf("apply a diff to layer %s: %w", id, err)
			}
		}
		if !untouched {
			return d.unpack(ctx, s, r, diff)
		}
		if err := s.store.Reset(ctx, id); err != nil {
			return 0, fmt.Errorf("apply a diff to layer %s: %w", id, err)
		}
	}
	return s.store.Import(ctx, id, diff, s.idmap)
}

// unpack applies a tar to a written layer through its merged mount, where a
// whiteout of the tar is a deletion and overlayfs sees to the rest. The unpacking
// stays within the mount (os.Root), whatever links the layer or the tar hold.
func (d *Driver) unpack(ctx context.Context, s *session, r layer.Record, diff io.Reader) (size int64, err error) {
	fail := func(err error) (int64, error) {
		return 0, fmt.Errorf("apply a diff to layer %s, which already has content: %w", r.ID, err)
	}
	at := s.merged(r.ID)
	if _, mounted, err := d.count(s, r.ID); err != nil {
		return fail(err)
	} else if !mounted {
		if err := d.mount(ctx, s, r.ID, at, ""); err != nil {
			return fail(err)
		}
		defer func() { err = errors.Join(err, mounts.DetachAll(at)) }()
	}
	in := layer.NewTarStream(diff)
	vetted := ext4.Vet(ctx, in)
	_, err = archive.UnpackLayer(at, vetted, &archive.TarOptions{IDMap: s.idmap})
	_ = vetted.Close() // documented to return nil
	if endErr := in.Finish(); endErr != nil {
		return fail(errors.Join(endErr, err))
	}
	if err != nil {
		return fail(err)
	}
	if err := syncFS(at); err != nil {
		return fail(err)
	}
	size, err = s.stack.Size(ctx, r, r.Parent)
	if err != nil {
		return fail(err)
	}
	return size, nil
}

// syncFS writes back the file system behind a path; overlayfs passes it on to
// its upper.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		err = fmt.Errorf("sync %s: %w", path, err)
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
