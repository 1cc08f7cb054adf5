package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"

	"layervault/layer"
)

// Prepare makes a snapshot that can be written to, with an image and a key of its own, and
// returns its mount. When it fails, nothing is left; when it returns, the snapshot is durable.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := s.create(ctx, snapshots.KindActive, key, parent, opts)
	return m, classify(err)
}

// View makes a snapshot that shows a committed one, read-only, and returns its mount.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := s.create(ctx, snapshots.KindView, key, parent, opts)
	return m, classify(err)
}

func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (_ []mount.Mount, err error) {
	unlock, err := s.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var asked snapshots.Info
	for _, opt := range opts {
		if err := opt(&asked); err != nil {
			return nil, err
		}
	}
	c := layer.CreateOptions{ReadWrite: true, DefaultSize: s.cfg.DefaultSize, Name: key, State: states[kind]}
	if c.SizeLimit, err = sizeLimit(asked.Labels); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	// An image that our differ would erase again is not made.
	unpack := unpackingOf(key, parent, asked.Labels)
	promised := kind == snapshots.KindActive && s.unpacks.expects(unpack)
	c.ReadWrite = !promised
	id := newLayerID()
	below, err := s.parentOf(ctx, key, parent)
	if err != nil {
		return nil, err
	}
	if err := s.enter(ctx, kind, key, parent, id, opts); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.attached.drop(id)
			err = errors.Join(err, s.forget(context.WithoutCancel(ctx), key))
		}
	}()
	if kind == snapshots.KindActive && !promised {
		if c.IDMap, err = s.rootOwner(ctx, id, below, asked.Labels); err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", key, err)
		}
	}
	if err := s.layers.Create(ctx, id, below, c); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	chain, err := s.layers.Chain(id)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	asked.Parent = parent
	var m []mount.Mount
	if promised {
		m, err = s.promise(key, asked, chain)
	} else {
		m, err = s.mountsOf(ctx, key, asked, chain)
	}
	if err == nil && kind == snapshots.KindActive {
		s.unpacks.begin(unpack, promised)
	}
	return m, err
}

// parentOf is the layer of a committed snapshot, "" for none.
func (s *Snapshotter) parentOf(ctx context.Context, key, parent string) (string, error) {
	if parent == "" {
		return "", nil
	}
	e, r, err := s.verified(ctx, parent)
	if err == nil || errors.Is(err, ErrUnfinished) {
		if e.info.Kind != snapshots.KindCommitted {
			return "", fmt.Errorf("snapshot %q: parent %q is not committed: %w", key, parent, errdefs.ErrInvalidArgument)
		}
	}
	if err != nil {
		return "", fmt.Errorf("snapshot %q: parent: %w", key, err)
	}
	return r.ID, nil
}

// enter puts a snapshot into the database, before its layer exists.
func (s *Snapshotter) enter(ctx context.Context, kind snapshots.Kind, key, parent, id string, opts []snapshots.Opt) error {
	return s.db.write(ctx, func(ctx context.Context, t tables) error {
		made, err := storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return err
		}
		return t.put(bucketLayers, made.ID, id)
	})
}

// forget removes a snapshot from the database and has its layer erased.
func (s *Snapshotter) forget(ctx context.Context, key string) error {
	err := s.db.write(ctx, func(ctx context.Context, t tables) error {
		_, err := s.leave(ctx, t, key)
		return err
	})
	if err == nil {
		s.eraseBehind()
	}
	return err
}

// rootOwner is the owner of a new writable layer's root: the one that labels ask for, or that
// of the parent's root, as with containerd's overlayfs.
func (s *Snapshotter) rootOwner(ctx context.Context, id, parent string, labels map[string]string) (user.IdentityMapping, error) {
	owner, ok, err := labelledOwner(labels)
	if err != nil || ok {
		return owner, err
	}
	if parent == "" {
		return user.IdentityMapping{}, nil
	}
	chain, err := s.layers.Chain(parent)
	if err != nil {
		return user.IdentityMapping{}, err
	}
	shown := withImages(chain)
	if len(shown) == 0 {
		return user.IdentityMapping{}, nil
	}
	if err := s.attached.hold(ctx, id, shown); err != nil {
		return user.IdentityMapping{}, err
	}
	return ownerOf(s.contentOf(shown[0].ID))
}

// refill gives an active snapshot without an image an empty one: it was promised one, or an
// import into it was broken off.
func (s *Snapshotter) refill(ctx context.Context, key string, info snapshots.Info, r layer.Record) (layer.Record, error) {
	s.unpacks.settle(unpackingOf(key, info.Parent, info.Labels))
	owner, err := s.rootOwner(ctx, r.ID, r.Parent, info.Labels)
	if err != nil {
		return r, err
	}
	return s.layers.MakeWritable(ctx, r.ID, layer.CreateOptions{DefaultSize: s.cfg.DefaultSize, IDMap: owner})
}

// idLetters is the length of a layer's id in letters of base 32: 40 bits. Two layers of one id
// cannot be (layer.Store.Create), and short ones leave room for many in the one page of a
// mount's options.
const idLetters = 8

// newLayerID is a random id. The database's own numbers begin anew with a new database, those
// of layers must not.
func newLayerID() string { return "s" + strings.ToLower(rand.Text()[:idLetters]) }
