package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"layervault/layer"
)

// Apply imports a blob into the empty active snapshot that the mount is of: all or nothing, and
// durable when it answers. It returns the descriptor of the uncompressed tar. The blob must be
// whole, have the descriptor's size and digest, and hold nothing beyond its end; else nothing
// of it stays, and the snapshot is an empty one.
//
// Errors: ErrNotOurs for other mounts, for a snapshot that was written to, and for types of
// blobs that only containerd knows; ErrBadBlob.
func (d *Differ) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	out, err := d.apply(ctx, desc, mounts, opts)
	if errors.Is(err, ErrNotOurs) {
		// containerd asks its next differ, which writes to the mount.
		if failed := d.s.provide(ctx, mounts); failed != nil {
			err = failed
		}
	}
	return out, classify(err)
}

func (d *Differ) apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts []diff.ApplyOpt) (_ ocispec.Descriptor, err error) {
	none := ocispec.Descriptor{}
	var cfg diff.ApplyConfig
	for _, opt := range opts {
		if err := opt(ctx, desc, &cfg); err != nil {
			return none, err
		}
	}
	packed, err := packingOf(desc.MediaType)
	if err != nil {
		return none, err
	}
	if len(cfg.ProcessorPayloads) > 0 {
		return none, fmt.Errorf("%w: a stream processor is asked for", ErrNotOurs)
	}
	m, err := d.s.attached.read(mounts)
	if err != nil {
		return none, err
	}
	if !m.writable {
		return none, fmt.Errorf("%w: mount is read-only", ErrNotOurs)
	}
	r, err := d.s.snapshotOf(ctx, m.layers[0])
	if err != nil {
		return none, err
	}
	id, key := r.ID, r.Name
	unlock, err := d.s.begin(ctx, key)
	if err != nil {
		return none, err
	}
	defer unlock()
	e, err := d.s.fillable(ctx, key, id)
	if err != nil {
		return none, fmt.Errorf("apply %s to snapshot %q: %w", desc.Digest, key, err)
	}
	blob, err := d.open(withNamespace(ctx, key), desc, packed, cfg.Progress)
	if err != nil {
		return none, fmt.Errorf("apply %s to snapshot %q: %w", desc.Digest, key, err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	unpack := unpackingOf(key, e.info.Parent, e.info.Labels)
	d.s.unpacks.settle(unpack)
	if err := d.s.fill(ctx, id, blob); err != nil {
		return none, fmt.Errorf("apply %s to snapshot %q: %w", desc.Digest, key, err)
	}
	d.s.unpacks.fill(unpack)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: blob.size, Digest: blob.sum.Digest()}, nil
}

// fillable says why a layer cannot be filled by an import: nil for the empty image of an active
// snapshot. The snapshot is locked.
func (s *Snapshotter) fillable(ctx context.Context, key, id string) (entry, error) {
	e, r, err := s.verified(ctx, key)
	switch {
	case err != nil:
		return e, err
	case r.ID != id:
		return e, fmt.Errorf("%w: mount is of layer %s", ErrForged, id)
	case e.info.Kind != snapshots.KindActive || r.Kind == layer.Sealed:
		return e, layer.ErrNotFresh
	case r.Kind == layer.Fresh:
		return e, nil
	}
	if err := s.attached.hold(ctx, id, []layer.Record{r}); err != nil {
		return e, err
	}
	entries, err := os.ReadDir(s.contentOf(id))
	if err != nil {
		return e, err
	}
	if len(entries) > 0 {
		return e, fmt.Errorf("%w: snapshot was written to", ErrNotOurs)
	}
	return e, nil
}

// provide makes and attaches the image that the mount of a snapshot promises, if it is one of
// ours and has none.
func (s *Snapshotter) provide(ctx context.Context, mounts []mount.Mount) error {
	m, err := s.attached.read(mounts)
	if err != nil || !m.writable {
		return nil //nolint:nilerr // not ours
	}
	r, err := s.snapshotOf(ctx, m.layers[0])
	if err != nil || r.State != layer.Active || r.Kind != layer.Fresh {
		return nil //nolint:nilerr // not ours, or there is an image
	}
	unlock, err := s.begin(ctx, r.Name)
	if err != nil {
		return err
	}
	defer unlock()
	e, chain, err := s.verifiedChain(ctx, r.Name)
	if err == nil {
		_, err = s.mountsOf(ctx, r.Name, e.info, chain)
	}
	return err
}

// fill gives a layer a sealed image, in the place of its empty one, where that is attached or is
// to be.
func (s *Snapshotter) fill(ctx context.Context, id string, tar io.Reader) error {
	if err := s.attached.evict(ctx, id); err != nil {
		return err
	}
	if err := s.layers.Renew(ctx, id); err != nil { // the blob has a digest
		return err
	}
	if _, err := s.layers.Import(ctx, id, tar, user.IdentityMapping{}); err != nil {
		return err
	}
	r, err := s.layers.Get(id)
	if err != nil {
		return err
	}
	return s.attached.hold(ctx, id, []layer.Record{r})
}

// blob is the uncompressed tar in a blob. Read fails in the place of io.EOF if the blob was not
// what it should be.
type blob struct {
	tar      io.ReadCloser // decompresses
	packed   *counted
	store    io.Closer
	want     ocispec.Descriptor
	sum      digest.Digester // of the tar
	size     int64           // of the tar
	progress func(int64)
}

// open opens a blob of the content store.
func (d *Differ) open(ctx context.Context, desc ocispec.Descriptor, p packing, progress func(int64)) (*blob, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest: %w", ErrBadBlob, err)
	}
	if !desc.Digest.Algorithm().Available() || desc.Size < 0 {
		return nil, fmt.Errorf("%w: digest or size", ErrBadBlob)
	}
	from, err := d.content.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("read the blob: %w", err)
	}
	if from.Size() != desc.Size {
		return nil, errors.Join(fmt.Errorf("%w: it has %d bytes, not %d", ErrBadBlob, from.Size(), desc.Size), from.Close())
	}
	b := &blob{
		packed: &counted{r: content.NewReader(from), sum: desc.Digest.Algorithm().Digester()},
		store:  from, want: desc, sum: digest.Canonical.Digester(), progress: progress,
	}
	if b.tar, err = p.unpack(b.packed); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrBadBlob, err), from.Close())
	}
	return b, nil
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	n, err := b.tar.Read(p)
	_, _ = b.sum.Hash().Write(p[:n]) // documented to return no error
	b.size += int64(n)
	if b.progress != nil {
		b.progress(b.packed.n)
	}
	switch {
	case errors.Is(err, io.EOF):
		err = b.check()
	case err != nil && b.packed.err == nil: // the decompressor's own
		err = fmt.Errorf("%w: %w", ErrBadBlob, err)
	}
	return n, err
}

// check judges the whole blob at its end: io.EOF if it is the one that was asked for.
func (b *blob) check() error {
	if _, err := io.Copy(io.Discard, b.packed); err != nil {
		return err
	}
	if b.packed.n != b.want.Size {
		return fmt.Errorf("%w: %d bytes were read, not %d", ErrBadBlob, b.packed.n, b.want.Size)
	}
	if sum := b.packed.sum.Digest(); sum != b.want.Digest {
		return fmt.Errorf("%w: digest of its content is %s", ErrBadBlob, sum)
	}
	return io.EOF
}

// Close ends the reading.
func (b *blob) Close() error { return errors.Join(b.tar.Close(), b.store.Close()) }

// counted sums what is read of a blob as it is stored.
type counted struct {
	r   io.Reader
	n   int64
	sum digest.Digester
	err error // of r, nil for io.EOF
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	_, _ = c.sum.Hash().Write(p[:n]) // documented to return no error
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}
