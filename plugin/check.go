package plugin

import (
	"context"
	"errors"
	"slices"

	"layervault/engine"
	"layervault/layer"
	"layervault/persist"
	door "layervault/plugin/snapshot"
	"layervault/snapshotter"
)

// ErrSnapshots: the check of snapshots found problems.
var ErrSnapshots = errors.New("snapshots need attention")

// Asking is whom the check of snapshots asks.
type Asking struct {
	Snapshots string // socket of the door snapshots, for a service that runs
	Database  string // containerd's meta.db
}

// named reads what containerd's database names. The error says why nobody can say, and then all
// answers are snapshotter.Unsaid.
func (a Asking) named() (func(string) snapshotter.Named, error) {
	names, err := snapshotter.ReadNames(a.Database, engine.SnapshotterName)
	if err != nil {
		return func(string) snapshotter.Named { return snapshotter.Unsaid }, err
	}
	return names.Named, nil
}

// CheckSnapshots compares the snapshot database, the layers and containerd's database. It needs
// no key and changes nothing; a running service is asked for its database. asked is why
// containerd's could not be read: the check goes on without it.
func CheckSnapshots(ctx context.Context, layout persist.Layout, a Asking) (problems []snapshotter.Problem, asked, err error) {
	entries, removed, err := snapshotter.Entries(ctx, layout.Snapshots(persist.Vault))
	if errors.Is(err, snapshotter.ErrInUse) {
		infos, listErr := door.List(ctx, a.Snapshots)
		if listErr != nil {
			return nil, nil, errors.Join(err, listErr)
		}
		entries, err = snapshotter.EntriesOf(infos), nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := layer.OpenReader(layout.Layers(persist.Vault))
	if err != nil {
		return nil, nil, err
	}
	records, err := r.List(ctx)
	if err = errors.Join(err, r.Close()); err != nil && !errors.Is(err, layer.ErrDamaged) {
		return nil, nil, err
	}
	named, asked := a.named()
	return snapshotter.Judge(entries, removed, records, named), asked, err
}

// MendSnapshots mends what CheckSnapshots found, while neither a service nor containerd
// runs; erase is that of snapshotter.Snapshotter.Mend. Without containerd's database nothing is
// mended: the error then says why it could not be read.
func MendSnapshots(ctx context.Context, cfg Config, a Asking, erase bool) (mended []snapshotter.Problem, err error) {
	named, err := a.named()
	if err != nil {
		return nil, err
	}
	problems, _, err := CheckSnapshots(ctx, cfg.Containerd.Layout, a)
	if err != nil && !errors.Is(err, layer.ErrDamaged) {
		return nil, err
	}
	if !slices.ContainsFunc(problems, func(p snapshotter.Problem) bool { return p.Mendable }) {
		return nil, nil // without a key
	}
	s := newSnapshots(ctx, cfg, func(*layer.Store) {})
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if _, err := s.open(ctx); err != nil {
		return nil, err
	}
	return s.snaps.Mend(ctx, named, erase)
}
