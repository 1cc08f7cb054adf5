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
	e, r, err := s.verified(ctx, key)
	if err != nil {
		return nil, classify(err)
	}
	if e.info.Kind == snapshots.KindCommitted {
		return nil, fmt.Errorf("snapshot %q is committed: %w", key, errdefs.ErrFailedPrecondition)
	}
	m, err := s.mountsOf(ctx, key, r.ID)
	return m, classify(err)
}

// mountsOf attaches what a snapshot shows and describes its mount. The snapshot is locked.
func (s *Snapshotter) mountsOf(ctx context.Context, key, id string) (_ []mount.Mount, err error) {
	r, err := s.layers.Get(id)
	if err == nil && r.State == layer.Active && r.Kind == layer.Fresh {
		// An import into it was broken off.
		r, err = s.refill(ctx, key, r)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	chain, err := s.chainOf(id)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	if err := s.attached.hold(ctx, id, chain); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	m, err := s.spec(chain, r.State == layer.Active && r.Kind == layer.Writable)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	return []mount.Mount{m}, nil
}

func (s *Snapshotter) spec(chain []layer.Record, writable bool) (mount.Mount, error) {
	paths := make([]string, 0, len(chain))
	for _, r := range chain {
		paths = append(paths, s.attached.path(r.ID))
	}
	m, err := stack.Spec(paths, writable)
	if errors.Is(err, stack.ErrNoContent) {
		return s.emptySpec()
	}
	return mount.Mount{Type: m.Type, Source: m.Source, Options: m.Options}, err
}

// emptySpec shows a directory without files: a view of no parent, which containerd compares the
// lowest layer with.
func (s *Snapshotter) emptySpec() (mount.Mount, error) {
	dir := s.attached.path(emptyName)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return mount.Mount{}, err
	}
	return mount.Mount{Type: "bind", Source: dir, Options: []string{"ro", "rbind"}}, nil
}

// contentOf is where the content of an attached layer is seen.
func (s *Snapshotter) contentOf(id string) string {
	return filepath.Join(s.attached.path(id), crypt.DirDiff)
}
