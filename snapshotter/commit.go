package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"layervault/layer"
)

// Commit makes an active snapshot the committed one of another name. containerd waits for it
// within a transaction of its own, so it moves no content: a record and the database are
// written, and the image becomes read-only for whoever mounts it next. What the page cache
// still has of a writable layer is written back behind the answer; a layer that our differ
// filled is durable since then.
//
// A snapshot that was prepared without a parent may get one, as WithParent says.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	unlock, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	return classify(s.commit(ctx, name, key, opts))
}

func (s *Snapshotter) commit(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	e, r, err := s.verified(ctx, key)
	if err != nil && !errors.Is(err, ErrUnfinished) {
		return err
	}
	if e.info.Kind != snapshots.KindActive {
		return fmt.Errorf("commit snapshot %q: it is not active: %w", key, errdefs.ErrFailedPrecondition)
	}
	if r.Kind == layer.Fresh { // nothing was written to it
		if r, err = s.refill(ctx, key, e.info, r); err != nil {
			return fmt.Errorf("commit snapshot %q: %w", key, err)
		}
	}
	if err := s.attached.hold(ctx, r.ID, []layer.Record{r}); err != nil {
		return fmt.Errorf("commit snapshot %q: %w", key, err)
	}
	usage, err := s.usageOf(r)
	if err != nil {
		return fmt.Errorf("commit snapshot %q: %w", key, err)
	}
	content, err := os.Open(s.contentOf(r.ID))
	if err != nil {
		return fmt.Errorf("commit snapshot %q: %w", key, err)
	}
	if err := s.rename(ctx, name, key, r.ID, usage, opts); err != nil {
		return errors.Join(fmt.Errorf("commit snapshot %q as %q: %w", key, name, err), content.Close())
	}
	s.unpacks.commit(unpackingOf(key, e.info.Parent, e.info.Labels))
	s.writeBack(content, r.ID)
	// Committed whatever comes now. An image that stays writable is that for a client that
	// breaks the rules only.
	if err := s.attached.freeze(context.WithoutCancel(ctx), r.ID); err != nil {
		s.log.WarnContext(ctx, "cannot show a committed snapshot read-only", "snapshot", name, "error", err)
	}
	s.attached.drop(r.ID)
	return nil
}

// rename commits in the record, then in the database: see the package comment. The database is
// told before: then a removal of what a crash left in between knows that it removes no other
// snapshot.
func (s *Snapshotter) rename(ctx context.Context, name, key, id string, usage snapshots.Usage, opts []snapshots.Opt) error {
	err := s.db.write(ctx, func(_ context.Context, t tables) error { return t.put(bucketCommitting, id, name) })
	if err != nil {
		return err
	}
	return s.db.write(ctx, func(ctx context.Context, t tables) error {
		if _, err := storage.CommitActive(ctx, key, name, usage, opts...); err != nil {
			return err
		}
		if err := t.remove(bucketCommitting, id); err != nil {
			return err
		}
		e, err := t.entry(ctx, name)
		if err != nil {
			return err
		}
		below := ""
		if e.info.Parent != "" {
			p, err := t.entry(ctx, e.info.Parent)
			if err != nil {
				return err
			}
			r, err := s.recordOf(e.info.Parent, p)
			if err != nil {
				return err
			}
			below = r.ID
		}
		return s.layers.Commit(ctx, id, name, below)
	})
}

// writeBack makes the content of a committed layer durable, behind the answer. It closes
// content.
func (s *Snapshotter) writeBack(content *os.File, id string) {
	written := func() error { return errors.Join(unix.Syncfs(int(content.Fd())), content.Close()) }
	s.later(func(ctx context.Context) {
		if err := written(); err != nil {
			s.log.ErrorContext(ctx, "cannot write back a committed layer", "layer", id, "error", err)
		}
	})
}
