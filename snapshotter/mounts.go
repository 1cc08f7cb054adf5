package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"layervault/crypt"
	"layervault/layer"
	"layervault/stack"
)

// emptyName is the directory that a view of nothing shows. A layer's id has no "+".
const emptyName = "+empty"

// Mounts returns the one mount of an active snapshot or a view. Its images are attached, after
// a reboot too, and stay so until the snapshot is committed or removed.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	unlock, err := s.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e, chain, err := s.verifiedChain(ctx, key)
	if err != nil {
		return nil, classify(err)
	}
	if e.info.Kind == snapshots.KindCommitted {
		return nil, fmt.Errorf("snapshot %q is committed: %w", key, errdefs.ErrFailedPrecondition)
	}
	m, err := s.mountsOf(ctx, key, e.info, chain)
	return m, classify(err)
}

// mountsOf attaches what a snapshot shows and describes its mount. The snapshot is locked.
func (s *Snapshotter) mountsOf(ctx context.Context, key string, info snapshots.Info, chain []layer.Record) (_ []mount.Mount, err error) {
	if top := chain[0]; top.State == layer.Active && top.Kind == layer.Fresh {
		// Prepared for our differ, or an import into it was broken off.
		if chain[0], err = s.refill(ctx, key, info, top); err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", key, err)
		}
	}
	shown := withImages(chain)
	if err := s.attached.hold(ctx, chain[0].ID, shown); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	writable := chain[0].State == layer.Active && chain[0].Kind == layer.Writable
	return s.spec(key, info, shown, writable)
}

// promise describes the mount that a snapshot has once its writable image is made, for our
// differ, which needs no image. Nothing is attached, and nobody can write where the mount names
// a directory.
func (s *Snapshotter) promise(key string, info snapshots.Info, chain []layer.Record) ([]mount.Mount, error) {
	if err := s.attached.bar(chain[0].ID); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	return s.spec(key, info, append(chain[:1:1], withImages(chain[1:])...), true)
}

// spec describes the mount of layers with images, highest first.
func (s *Snapshotter) spec(key string, info snapshots.Info, shown []layer.Record, writable bool) ([]mount.Mount, error) {
	paths := make([]string, 0, len(shown))
	for _, r := range shown {
		paths = append(paths, s.attached.path(r.ID))
	}
	base := ""
	if writable && isRebased(info.Parent, info.Labels) {
		// A tar that deletes a file of the layers below is not unpacked into a plain directory:
		// there the deletion would be lost.
		var err error
		if base, err = s.emptyDir(); err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", key, err)
		}
	}
	m, err := stack.Spec(paths, base, writable)
	if errors.Is(err, stack.ErrNoContent) {
		// A view of no parent, which containerd compares the lowest layer with.
		var dir string
		dir, err = s.emptyDir()
		m = stack.Mount{Type: "bind", Source: dir, Options: []string{"ro", "rbind"}}
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	return []mount.Mount{{Type: m.Type, Source: m.Source, Options: m.Options}}, nil
}

// emptyDir is a directory without files.
func (s *Snapshotter) emptyDir() (string, error) {
	dir := s.attached.path(emptyName)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

// contentOf is where the content of an attached layer is seen.
func (s *Snapshotter) contentOf(id string) string {
	return filepath.Join(s.attached.path(id), crypt.DirDiff)
}
