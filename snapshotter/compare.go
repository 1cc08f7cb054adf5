package snapshotter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"layervault/layer"
)

// Compare writes what the snapshot of one mount changes over its parent, which is the snapshot
// of the other, into the content store, and returns the blob's descriptor. It reads the upper
// directory alone. Error: ErrNotOurs, also for two snapshots of which one is not the other's
// parent.
func (d *Differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	out, err := d.compare(ctx, lower, upper, opts)
	return out, classify(err)
}

func (d *Differ) compare(ctx context.Context, lower, upper []mount.Mount, opts []diff.Opt) (_ ocispec.Descriptor, err error) {
	none := ocispec.Descriptor{}
	var cfg diff.Config
	for _, opt := range opts {
		if err := opt(&cfg); err != nil {
			return none, err
		}
	}
	if cfg.MediaType == "" {
		cfg.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	packed, ok := compressions[cfg.MediaType]
	switch {
	case !ok:
		return none, fmt.Errorf("%w: diff of type %q", ErrNotOurs, cfg.MediaType)
	case cfg.Compressor != nil, cfg.SourceDateEpoch != nil:
		return none, fmt.Errorf("%w: another compressor, or another time for all files, is asked for", ErrNotOurs)
	}
	r, parent, err := d.s.related(ctx, lower, upper)
	if err != nil {
		return none, err
	}
	tar, err := d.s.stack.Diff(ctx, r, parent)
	if err != nil {
		return none, fmt.Errorf("compare snapshot %q: %w", r.Name, err)
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	out, err := d.store(withNamespace(ctx, r.Name), tar, packed, cfg)
	if err != nil {
		return none, fmt.Errorf("compare snapshot %q: %w", r.Name, err)
	}
	return out, nil
}

// related is the layer of the upper mount and the id of its parent, which is the layer of the
// lower one.
func (s *Snapshotter) related(ctx context.Context, lower, upper []mount.Mount) (layer.Record, string, error) {
	low, err := s.attached.read(lower)
	if err != nil {
		return layer.Record{}, "", err
	}
	up, err := s.attached.read(upper)
	if err != nil {
		return layer.Record{}, "", err
	}
	if len(up.layers) == 0 {
		return layer.Record{}, "", fmt.Errorf("%w: diff of nothing", ErrNotOurs)
	}
	r, err := s.snapshotOf(ctx, up.layers[0])
	if err != nil {
		return layer.Record{}, "", err
	}
	parent := ""
	if len(low.layers) > 0 {
		parent = low.layers[0]
	}
	if r.Parent != parent || low.writable {
		return layer.Record{}, "", fmt.Errorf("%w: layer %s is not the parent of %s", ErrNotOurs, parent, r.ID)
	}
	return r, parent, nil
}

// store writes a tar into the content store, compressed, and returns its descriptor.
func (d *Differ) store(ctx context.Context, tar io.Reader, packed compression.Compression, cfg diff.Config) (_ ocispec.Descriptor, err error) {
	none := ocispec.Descriptor{}
	own := cfg.Reference == ""
	if own {
		cfg.Reference = "layervault-diff-" + rand.Text()
	}
	w, err := content.OpenWriter(ctx, d.content, content.WithRef(cfg.Reference), content.WithDescriptor(ocispec.Descriptor{MediaType: cfg.MediaType}))
	if err != nil {
		return none, fmt.Errorf("write a blob: %w", err)
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err != nil && own {
			if abortErr := d.content.Abort(context.WithoutCancel(ctx), cfg.Reference); abortErr != nil && !errdefs.IsNotFound(abortErr) {
				err = errors.Join(err, abortErr)
			}
		}
	}()
	if !own { // the rest of an upload that was broken off
		if err := w.Truncate(0); err != nil {
			return none, fmt.Errorf("write a blob: %w", err)
		}
	}
	sum := digest.Canonical.Digester()
	if err := pack(w, io.TeeReader(tar, sum.Hash()), packed); err != nil {
		return none, err
	}
	all := maps.Clone(cfg.Labels)
	if all == nil {
		all = map[string]string{}
	}
	if packed != compression.Uncompressed {
		all[labels.LabelUncompressed] = sum.Digest().String()
	}
	blob := w.Digest()
	if err := w.Commit(ctx, 0, blob, content.WithLabels(all)); err != nil && !errdefs.IsAlreadyExists(err) {
		return none, fmt.Errorf("write a blob: %w", err)
	}
	return d.describe(ctx, blob, cfg.MediaType, sum.Digest())
}

// pack compresses a tar. Only a complete one is finished: the end of a broken one would make it
// look whole.
func pack(w io.Writer, tar io.Reader, packed compression.Compression) error {
	out, err := compression.CompressStream(w, packed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, tar); err != nil {
		return fmt.Errorf("write a blob: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write a blob: %w", err)
	}
	return nil
}

// describe is the descriptor of a blob in the store. One that was there before without the
// digest of its tar is told that.
func (d *Differ) describe(ctx context.Context, blob digest.Digest, mediaType string, tar digest.Digest) (ocispec.Descriptor, error) {
	info, err := d.content.Info(ctx, blob)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("find the blob: %w", err)
	}
	if blob != tar && info.Labels[labels.LabelUncompressed] == "" {
		info.Labels = map[string]string{labels.LabelUncompressed: tar.String()}
		if _, err := d.content.Update(ctx, info, "labels."+labels.LabelUncompressed); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("label the blob: %w", err)
		}
	}
	return ocispec.Descriptor{MediaType: mediaType, Size: info.Size, Digest: info.Digest}, nil
}
