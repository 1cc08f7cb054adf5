package snapshotter

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"

	"layervault/layer"
	"layervault/stack"
)

// Stat says what the database knows of a snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	if s.isClosed() {
		return snapshots.Info{}, classify(ErrClosed)
	}
	e, err := s.db.find(ctx, key)
	return e.info, err
}

// Update changes the labels of a snapshot; nothing else can be changed.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	unlock, err := s.begin(ctx, info.Name)
	if err != nil {
		return snapshots.Info{}, err
	}
	defer unlock()
	err = s.db.write(ctx, func(ctx context.Context, _ tables) error {
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Walk calls fn for each snapshot that one of the filters matches. fn may call the snapshotter:
// no transaction is open meanwhile.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	if s.isClosed() {
		return classify(ErrClosed)
	}
	infos, err := s.db.walk(ctx, filters...)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Usage is what a snapshot itself takes within its file system, without its parents: of an
// active one now, of a committed one when it was committed. The file system's counters are
// read, not its files.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	unlock, err := s.begin(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	defer unlock()
	u, err := s.usage(ctx, key)
	return u, classify(err)
}

func (s *Snapshotter) usage(ctx context.Context, key string) (snapshots.Usage, error) {
	e, err := s.db.find(ctx, key)
	if err != nil || e.info.Kind != snapshots.KindActive {
		return e.usage, err
	}
	r, err := s.recordOf(key, e)
	if err != nil || r.Kind == layer.Fresh {
		return snapshots.Usage{}, err
	}
	// By a name of its own: what the snapshot itself shows stays as it is.
	visitor := r.ID + "+usage"
	if err := s.attached.hold(ctx, visitor, []layer.Record{r}); err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of snapshot %q: %w", key, err)
	}
	defer s.attached.drop(visitor)
	return s.usageOf(r)
}

// usageOf is the usage of an attached layer.
func (s *Snapshotter) usageOf(r layer.Record) (snapshots.Usage, error) {
	u, err := stack.UsageAt(s.attached.path(r.ID))
	return snapshots.Usage{Inodes: u.Inodes, Size: u.Bytes}, err
}
