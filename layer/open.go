package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"layervault/crypt"
	"layervault/internal/mounts"
)

// openAtOnce bounds how many images one Open works on. Each is a few reads, a
// short key derivation and ioctls that the kernel serialises in part; beyond
// eight nothing is gained.
const openAtOnce = 8

// View is a set of open images in a private directory, a small tmpfs of its own that
// takes them along when it is detached. In Dir the n-th image's
// content is the symbolic link named n in base 36: two bytes at most, so that
// 500 of them fit the one page of mount(2)'s data.
type View struct {
	Dir string
	// Layers are the records of what was opened: those that were asked for, or newer ones of
	// layers that were sealed anew in between.
	Layers []Record
	store  *Store
}

// Name is the name of the n-th image's content relative to Dir.
func (v *View) Name(n int) string { return strconv.FormatInt(int64(n), 36) }

// Content is the absolute path of the n-th image's content.
func (v *View) Content(n int) string { return filepath.Join(v.mountPoint(n), crypt.DirDiff) }

func (v *View) mountPoint(n int) string { return filepath.Join(v.Dir, "m"+v.Name(n)) }

// Open opens the images of layers, in parallel, writable ones writable. None of
// them may be fresh. All or nothing.
func (s *Store) Open(ctx context.Context, layers []Record) (_ *View, err error) {
	dir, err := os.MkdirTemp(s.cfg.Scratch, "v")
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	v := &View{Dir: dir, Layers: slices.Clone(layers), store: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := mounts.MountTmpfs(dir); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for n, r := range layers {
		g.Go(func() error { return v.open(ctx, n, r) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *View) open(ctx context.Context, n int, r Record) error {
	if r.Kind == Fresh {
		return fmt.Errorf("open layer %s: layer has no image yet", r.ID)
	}
	if err := os.Mkdir(v.mountPoint(n), 0o700); err != nil {
		return fmt.Errorf("open layer %s: %w", r.ID, err)
	}
	if err := os.Symlink(filepath.Join(filepath.Base(v.mountPoint(n)), crypt.DirDiff), filepath.Join(v.Dir, v.Name(n))); err != nil {
		return fmt.Errorf("open layer %s: %w", r.ID, err)
	}
	// Two opens of one image at once would race for its device.
	unlock, err := v.store.lockLayer(ctx, r.ID)
	if err != nil {
		return fmt.Errorf("open layer %s: %w", r.ID, err)
	}
	defer unlock()
	r = v.store.current(r)
	v.Layers[n] = r
	hold, err := v.mount(ctx, n, r)
	if err != nil {
		return fmt.Errorf("open layer %s: %w", r.ID, err)
	}
	if hold != nil {
		err = v.store.warm.keep(r.ID, hold)
	}
	if err != nil {
		v.store.log.WarnContext(ctx, "cannot close a warm image", "layer", r.ID, "error", err)
	}
	return nil
}

// mount mounts the n-th image and returns what may keep it warm, or nil. The layer is
// locked. Being warm is a matter of speed: failing to is not failing to open.
func (v *View) mount(ctx context.Context, n int, r Record) (Held, error) {
	at := v.mountPoint(n)
	if hold := v.store.warm.borrow(r.ID); hold != nil {
		err := hold.Mount(at)
		if err == nil {
			return hold, nil
		}
		v.store.log.WarnContext(ctx, "cannot mount a warm image; opening the image again", "layer", r.ID, "error", errors.Join(err, hold.Close()))
	}
	dev := v.store.device(Image{Layer: r.ID, Kind: r.Kind, UUID: r.UUID}, r.ID)
	if err := dev.Mount(ctx, at); err != nil {
		return nil, err
	}
	if r.Kind == Writable && n == 0 {
		return nil, nil
	}
	hold, err := dev.Hold(at)
	if err != nil {
		v.store.log.WarnContext(ctx, "cannot keep an image warm", "layer", r.ID, "error", err)
		return nil, nil
	}
	return hold, nil
}

// Close detaches the images, all at once: each single detach waits for every processor,
// which with a long chain would take most of the time of opening it. Mounts of them
// elsewhere stay: the kernel closes an image after its last user. Closing twice is no
// error.
func (v *View) Close(context.Context) error {
	if err := mounts.Detach(v.Dir); err != nil {
		return fmt.Errorf("close layers: %w", err)
	}
	// Never recursively: a mount that is still there after all must stop this, not be
	// emptied.
	if err := os.Remove(v.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("close layers: %w", err)
	}
	return nil
}
