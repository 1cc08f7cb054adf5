package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"layervault/plugin/socket"
)

// call makes one call on what is behind the door, and adds to its error what to type next.
func call[T any](ctx context.Context, s *Server, f func(*Backend) (T, error)) (res T, err error) {
	b, err := s.opener.get(ctx)
	if err == nil {
		res, err = f(b)
	}
	return res, socket.Advise(s.cfg.NextStep, err)
}

// do is call without a result.
func do(ctx context.Context, s *Server, f func(*Backend) error) error {
	_, err := call(ctx, s, func(b *Backend) (struct{}, error) { return struct{}{}, f(b) })
	return err
}

// lazySnapshotter is the snapshotter behind a door that may still be closed.
type lazySnapshotter struct{ s *Server }

var _ Snapshotter = lazySnapshotter{}

// Stat implements snapshots.Snapshotter, as all of the following.
func (l lazySnapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return call(ctx, l.s, func(b *Backend) (snapshots.Info, error) { return b.Snapshotter.Stat(ctx, key) })
}

func (l lazySnapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return call(ctx, l.s, func(b *Backend) (snapshots.Info, error) { return b.Snapshotter.Update(ctx, info, fieldpaths...) })
}

func (l lazySnapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return call(ctx, l.s, func(b *Backend) (snapshots.Usage, error) { return b.Snapshotter.Usage(ctx, key) })
}

func (l lazySnapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return call(ctx, l.s, func(b *Backend) ([]mount.Mount, error) { return b.Snapshotter.Mounts(ctx, key) })
}

func (l lazySnapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return call(ctx, l.s, func(b *Backend) ([]mount.Mount, error) { return b.Snapshotter.Prepare(ctx, key, parent, opts...) })
}

func (l lazySnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return call(ctx, l.s, func(b *Backend) ([]mount.Mount, error) { return b.Snapshotter.View(ctx, key, parent, opts...) })
}

func (l lazySnapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return do(ctx, l.s, func(b *Backend) error { return b.Snapshotter.Commit(ctx, name, key, opts...) })
}

func (l lazySnapshotter) Remove(ctx context.Context, key string) error {
	return do(ctx, l.s, func(b *Backend) error { return b.Snapshotter.Remove(ctx, key) })
}

func (l lazySnapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return do(ctx, l.s, func(b *Backend) error { return b.Snapshotter.Walk(ctx, fn, filters...) })
}

func (l lazySnapshotter) Cleanup(ctx context.Context) error {
	return do(ctx, l.s, func(b *Backend) error { return b.Snapshotter.Cleanup(ctx) })
}

// Close does nothing: the service never calls it, and its owner closes the snapshotter.
func (lazySnapshotter) Close() error { return nil }

// lazyDiffer is the differ behind a door that may still be closed.
type lazyDiffer struct{ s *Server }

// Apply implements diff.Applier.
func (l lazyDiffer) Apply(ctx context.Context, desc ocispec.Descriptor, m []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return call(ctx, l.s, func(b *Backend) (ocispec.Descriptor, error) { return b.Differ.Apply(ctx, desc, m, opts...) })
}

// Compare implements diff.Comparer.
func (l lazyDiffer) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	return call(ctx, l.s, func(b *Backend) (ocispec.Descriptor, error) {
		return b.Differ.Compare(ctx, lower, upper, opts...)
	})
}
