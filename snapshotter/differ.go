package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"layervault/crypt"
	"layervault/layer"
)

// Differ implements containerd's diff.Applier and diff.Comparer for the snapshots of one
// snapshotter: a blob goes straight into a sealed image, and a diff comes from the upper
// directory alone. What it does not do is ErrNotOurs, which containerd answers with its next
// differ.
type Differ struct {
	s       *Snapshotter
	content content.Store
}

var (
	_ diff.Applier  = (*Differ)(nil)
	_ diff.Comparer = (*Differ)(nil)
)

// NewDiffer makes a differ that reads and writes blobs in a content store: containerd's own,
// through its socket. The namespace is that of each call's context.
func NewDiffer(s *Snapshotter, blobs content.Store) *Differ { return &Differ{s: s, content: blobs} }

// shown is what a mount that was handed out shows.
type shown struct {
	layers   []string // highest first
	writable bool     // the highest one
}

// read understands a mount that this snapshotter handed out. Error: ErrNotOurs.
func (a *attachments) read(mounts []mount.Mount) (m shown, err error) {
	if len(mounts) != 1 {
		return shown{}, fmt.Errorf("%w: %d mounts, not one", ErrNotOurs, len(mounts))
	}
	var dirs []string
	switch one := mounts[0]; one.Type {
	case "bind":
		if one.Source == a.path(emptyName) {
			return shown{}, nil
		}
		dirs, m.writable = []string{one.Source}, !slices.Contains(one.Options, "ro")
	case "overlay":
		for _, option := range one.Options {
			name, value, _ := strings.Cut(option, "=")
			switch name {
			case "upperdir":
				dirs, m.writable = append([]string{value}, dirs...), true
			case "lowerdir":
				dirs = append(dirs, strings.Split(value, ":")...)
			}
		}
	default:
		return shown{}, fmt.Errorf("%w: mount of type %s", ErrNotOurs, one.Type)
	}
	for _, dir := range dirs {
		if dir == a.path(emptyName) {
			continue
		}
		id := a.layerAt(dir, crypt.DirDiff)
		if id == "" {
			return shown{}, fmt.Errorf("%w: %s is not below %s", ErrNotOurs, dir, a.dir)
		}
		m.layers = append(m.layers, id)
	}
	if len(m.layers) == 0 {
		return shown{}, fmt.Errorf("%w: mount without a directory", ErrNotOurs)
	}
	return m, nil
}

// snapshotOf is the authenticated record of a layer that is a snapshot. Error: ErrNotOurs.
func (s *Snapshotter) snapshotOf(ctx context.Context, id string) (layer.Record, error) {
	if ctx.Err() != nil {
		return layer.Record{}, context.Cause(ctx)
	}
	r, err := s.layers.Get(id)
	if err != nil {
		return layer.Record{}, err
	}
	if r.State == "" {
		return layer.Record{}, fmt.Errorf("%w: layer %s is no snapshot", ErrNotOurs, id)
	}
	return r, nil
}

// withNamespace gives a context the namespace of a snapshot, if it has none: containerd 1.7 leaves
// it out of what it asks a differ.
func withNamespace(ctx context.Context, name string) context.Context {
	if _, ok := namespaces.Namespace(ctx); ok {
		return ctx
	}
	namespace, _ := splitName(name)
	if namespace == "" {
		return ctx // of another program; its content store may want none
	}
	return namespaces.WithNamespace(ctx, namespace)
}
