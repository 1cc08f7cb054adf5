package snapshotter_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	mediatypes "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/sys/user"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
	"layervault/stack"
)

// differBench is a bench with a differ and a content store.
type differBench struct {
	*bench
	*snapshotter.Differ
	blobs content.Store
}

func newDifferBench(t *testing.T) *differBench {
	t.Helper()
	return newDifferBenchOf(t, images)
}

func newDifferBenchOf(t *testing.T, images snapshottertest.Images) *differBench {
	t.Helper()
	b := newBenchOf(t, images)
	blobs, err := snapshottertest.Blobs(b.dir)
	b.ok(err)
	return &differBench{bench: b, Differ: snapshotter.NewDiffer(b.Snapshotter, blobs), blobs: blobs}
}

// put stores a blob.
func (b *differBench) put(mediaType string, data []byte) ocispec.Descriptor {
	b.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := content.WriteBlob(b.ctx, b.blobs, desc.Digest.String(), bytes.NewReader(data), desc)
	b.ok(err)
	return desc
}

// layerTar is a tar of files that hold their own names.
func layerTar(t *testing.T, names ...string) []byte {
	t.Helper()
	data, err := snapshottertest.LayerTar(names...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func TestApply(t *testing.T) {
	b := newDifferBench(t)
	b.commit("base", "")
	plain := layerTar(t, "one", "two", "dir/three", ".wh.base")
	twice := append(zipped(t, plain[:1000]), zipped(t, plain[1000:])...) // as pigz and estargz write
	for name, desc := range map[string]ocispec.Descriptor{
		"oci":               b.put(ocispec.MediaTypeImageLayer, plain),
		"oci gzip":          b.put(ocispec.MediaTypeImageLayerGzip, zipped(t, plain)),
		"gzip of two parts": b.put(ocispec.MediaTypeImageLayerGzip, twice),
		"oci zstd":          b.put(ocispec.MediaTypeImageLayerZstd, zstandard(t, plain)),
		"zstd called gzip":  b.put(ocispec.MediaTypeImageLayerGzip, zstandard(t, plain)),
		"docker":            b.put(mediatypes.MediaTypeDockerSchema2Layer, plain),
		"docker, gzip":      b.put(mediatypes.MediaTypeDockerSchema2Layer, zipped(t, plain)),
		"docker gzip":       b.put(mediatypes.MediaTypeDockerSchema2LayerGzip, zipped(t, plain)),
	} {
		var seen int64
		got, err := b.Apply(b.ctx, desc, b.prepare(name, "base"), diff.WithProgress(func(_ ocispec.Descriptor, n int64) { seen = n }))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := (ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(plain), Size: int64(len(plain))}); got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
			t.Errorf("%s: descriptor %+v, want %+v", name, got, want)
		}
		if seen != desc.Size {
			t.Errorf("%s: progress ended at %d of %d bytes", name, seen, desc.Size)
		}
		if r := b.layerOf(name); r.Kind != layer.Sealed {
			t.Errorf("%s: layer is %s", name, r.Kind)
		}
		b.ok(b.Commit(b.ctx, "committed "+name, name))
		b.shows(b.prepare("on "+name, "committed "+name), "dir one two")
		u, err := b.Usage(b.ctx, "committed "+name)
		b.ok(err)
		want, err := stack.New(b.Store, user.IdentityMapping{}, slog.New(slog.DiscardHandler)).Usage(b.ctx, b.layerOf("committed "+name))
		if err != nil || u.Inodes != want.Inodes || u.Size != want.Bytes {
			t.Errorf("%s: usage %+v, by walking %+v (%v)", name, u, want, err)
		}
		b.ok(errors.Join(b.Remove(b.ctx, "on "+name), b.Remove(b.ctx, "committed "+name)))
	}
	empty := b.put(ocispec.MediaTypeImageLayer, nil)
	if got, err := b.Apply(b.ctx, empty, b.prepare("empty", "base")); err != nil || got.Size != 0 {
		t.Errorf("a blob of no bytes: %+v, %v", got, err)
	}
}

// A blob that is not whole leaves nothing, and the snapshot empty.
func TestApplyRefuses(t *testing.T) {
	b := newDifferBench(t)
	b.at(b.prepare("of base", ""), func(dir string) {
		b.write(filepath.Join(dir, "base"), "base")
		b.ok(os.Chown(dir, 7, 8))
	})
	b.ok(b.Commit(b.ctx, "base", "of base"))
	plain := layerTar(t, "one", "two")
	packed := zipped(t, plain)
	other := func(d ocispec.Descriptor, f func(*ocispec.Descriptor)) ocispec.Descriptor {
		f(&d)
		return d
	}
	good := b.put(ocispec.MediaTypeImageLayerGzip, packed)
	for name, c := range map[string]struct {
		desc ocispec.Descriptor
		want error
	}{
		"gzip, cut":            {b.put(ocispec.MediaTypeImageLayerGzip, packed[:len(packed)/2]), errdefs.ErrInvalidArgument},
		"gzip, end cut":        {b.put(ocispec.MediaTypeImageLayerGzip, packed[:len(packed)-4]), errdefs.ErrInvalidArgument},
		"gzip, garbage behind": {b.put(ocispec.MediaTypeImageLayerGzip, append(bytes.Clone(packed), "garbage"...)), snapshotter.ErrBadBlob},
		"gzip, broken":         {b.put(ocispec.MediaTypeImageLayerGzip, flipped(packed)), snapshotter.ErrBadBlob},
		"zstd, cut":            {b.put(ocispec.MediaTypeImageLayerZstd, zstandard(t, plain)[:60]), errdefs.ErrInvalidArgument},
		"zstd, garbage behind": {b.put(ocispec.MediaTypeImageLayerZstd, append(zstandard(t, plain), "garbage"...)), snapshotter.ErrBadBlob},
		"tar, cut":             {b.put(ocispec.MediaTypeImageLayer, plain[:514]), errdefs.ErrInvalidArgument},
		"xz called gzip":       {b.put(ocispec.MediaTypeImageLayerGzip, []byte("\xfd7zXZ\x00, and so on")), snapshotter.ErrBadBlob},
		"gzip called tar":      {b.put(ocispec.MediaTypeImageLayer, packed), errdefs.ErrInvalidArgument},
		"no tar":               {b.put(ocispec.MediaTypeImageLayer, []byte(strings.Repeat("no tar ", 1000))), errdefs.ErrInvalidArgument},
		"other digest": {other(good, func(d *ocispec.Descriptor) {
			at := filepath.Join(b.dir, "content", "blobs", "sha256", digest.FromString("x").Encoded())
			b.write(at, string(packed)) // a store that lies
			d.Digest = digest.FromString("x")
		}), snapshotter.ErrBadBlob},
		"other size":   {other(good, func(d *ocispec.Descriptor) { d.Size++ }), snapshotter.ErrBadBlob},
		"no digest":    {other(good, func(d *ocispec.Descriptor) { d.Digest = "x" }), snapshotter.ErrBadBlob},
		"no such blob": {other(good, func(d *ocispec.Descriptor) { d.Digest = digest.FromString("y") }), errdefs.ErrNotFound},
		"encrypted":    {other(good, func(d *ocispec.Descriptor) { d.MediaType += "+encrypted" }), errdefs.ErrNotImplemented},
		"another kind": {other(good, func(d *ocispec.Descriptor) { d.MediaType = "application/vnd.erofs.layer.v1" }), errdefs.ErrNotImplemented},
	} {
		if _, err := b.Apply(b.ctx, c.desc, b.prepare(name, "base")); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if r := b.layerOf(name); r.Kind == layer.Sealed {
			t.Errorf("%s: layer is sealed", name)
		}
		m, err := b.Mounts(b.ctx, name)
		b.ok(err)
		b.shows(m, "base")
		b.at(m, func(dir string) { // the new image is as the first one was
			var st unix.Stat_t
			b.ok(unix.Stat(dir, &st))
			if st.Uid != 7 || st.Gid != 8 {
				t.Errorf("%s: root belongs to %d:%d", name, st.Uid, st.Gid)
			}
		})
		b.ok(b.Remove(b.ctx, name))
	}
}

// stalled is a content store whose blobs do not end.
type stalled struct {
	content.Store
	reached chan struct{}
	end     <-chan struct{}
}

type stalledReader struct {
	content.ReaderAt
	stalled
}

func (s stalled) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	r, err := s.Store.ReaderAt(ctx, desc)
	return stalledReader{r, s}, err
}

func (r stalledReader) ReadAt([]byte, int64) (int, error) {
	close(r.reached)
	<-r.end
	return 0, io.ErrUnexpectedEOF
}

// A client that is killed in Apply leaves an empty snapshot, and holds up nobody.
func TestApplyAbandoned(t *testing.T) {
	b := newDifferBench(t)
	b.unpackBase()
	blob := b.put(ocispec.MediaTypeImageLayer, layerTar(t, "file"))
	end := make(chan struct{})
	store := stalled{b.blobs, make(chan struct{}), end}
	ctx, cancel := context.WithCancel(b.ctx)
	m := b.unpackOn("b", "a")
	done := make(chan error, 1)
	go func() {
		_, err := snapshotter.NewDiffer(b.Snapshotter, store).Apply(ctx, blob, m)
		done <- err
	}()
	<-store.reached
	b.shows(b.prepare("meanwhile", chainName("a")), "base")
	cancel()
	close(end) // its connection ends with it
	if err := <-done; err == nil {
		t.Error("applied")
	}
	_, err := b.Apply(b.ctx, blob, m)
	b.ok(err)
	b.ok(b.Commit(b.ctx, chainName("b"), extract("b")))
	b.shows(b.prepare("container", chainName("b")), "base file")
}

func flipped(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)-6] ^= 1 // within the checksum of gzip
	return data
}

// Mounts that this differ does not know, or that hold something, are for containerd's next one.
func TestApplyNotOurs(t *testing.T) {
	b := newDifferBench(t)
	b.commit("base", "")
	blob := b.put(ocispec.MediaTypeImageLayer, layerTar(t, "one"))
	view, err := b.View(b.ctx, "view", "base")
	b.ok(err)
	written := b.prepare("written", "base")
	b.at(written, func(dir string) { b.write(filepath.Join(dir, "file"), "") })
	for name, m := range map[string][]mount.Mount{
		"nothing":     nil,
		"two":         append(b.prepare("two", ""), b.prepare("three", "")...),
		"elsewhere":   {{Type: "bind", Source: "/tmp", Options: []string{"rw"}}},
		"beside":      {{Type: "bind", Source: b.At + "/x/work", Options: []string{"rw"}}},
		"climbs":      {{Type: "bind", Source: b.At + "/../x/diff", Options: []string{"rw"}}},
		"other type":  {{Type: "ext4", Source: "/dev/sda"}},
		"view":        view,
		"written":     written,
		"other lower": {{Type: "overlay", Options: []string{"lowerdir=/a", "upperdir=" + b.At + "/x/diff"}}},
	} {
		if _, err := b.Apply(b.ctx, blob, m); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.shows(written, "base file")
	// What is sealed stays as it is.
	m := b.prepare("sealed", "base")
	_, err = b.Apply(b.ctx, blob, m)
	b.ok(err)
	if _, err := b.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, layerTar(t, "two")), m); err == nil {
		t.Error("applied twice")
	}
	b.ok(b.Commit(b.ctx, "done", "sealed"))
	if _, err := b.Apply(b.ctx, blob, m); err == nil {
		t.Error("applied to a committed snapshot")
	}
	b.shows(b.prepare("on it", "done"), "base one")
}

// A diff holds what was changed, and applied elsewhere it makes the same again.
func TestCompare(t *testing.T) {
	b := newDifferBench(t)
	b.at(b.prepare("of base", ""), func(dir string) {
		for _, name := range []string{"keep", "delete", "change"} {
			b.write(filepath.Join(dir, name), name)
		}
	})
	b.ok(b.Commit(b.ctx, "base", "of base"))
	upper := b.prepare("key", "base")
	b.at(upper, func(dir string) {
		b.ok(os.Remove(filepath.Join(dir, "delete")))
		b.write(filepath.Join(dir, "change"), "changed")
		b.write(filepath.Join(dir, "new"), "new")
	})
	lower, err := b.View(b.ctx, "lower", "base")
	b.ok(err)
	for _, mediaType := range []string{"", ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd} {
		desc, err := b.Compare(b.ctx, lower, upper, diff.WithMediaType(mediaType), diff.WithLabels(map[string]string{"a": "b"}))
		b.ok(err)
		info, err := b.blobs.Info(b.ctx, desc.Digest)
		b.ok(err)
		if info.Size != desc.Size || info.Labels["a"] != "b" || mediaType != "" && desc.MediaType != mediaType {
			t.Errorf("%s: %+v, in the store %+v", mediaType, desc, info)
		}
		applied, err := b.Apply(b.ctx, desc, b.prepare("again"+mediaType, "base"))
		b.ok(err)
		if want := info.Labels[labels.LabelUncompressed]; want != "" && want != applied.Digest.String() || want == "" && applied.Digest != desc.Digest {
			t.Errorf("%s: label %s, tar %s", mediaType, want, applied.Digest)
		}
		m, err := b.Mounts(b.ctx, "again"+mediaType)
		b.ok(err)
		b.shows(m, "change keep new")
	}
	// The lowest layer, over nothing; and a committed one, by its view.
	nothing, err := b.View(b.ctx, "nothing", "")
	b.ok(err)
	desc, err := b.Compare(b.ctx, nothing, lower)
	b.ok(err)
	_, err = b.Apply(b.ctx, desc, b.prepare("base again", ""))
	b.ok(err)
	b.ok(b.Commit(b.ctx, "base two", "base again"))
	b.shows(b.prepare("on base two", "base two"), "change delete keep")

	for name, c := range map[string]struct {
		lower, upper []mount.Mount
		opts         []diff.Opt
	}{
		"not the parent": {nothing, upper, nil},
		"of nothing":     {nothing, nothing, nil},
		"elsewhere":      {lower, []mount.Mount{{Type: "bind", Source: "/tmp"}}, nil},
		"other type":     {lower, upper, []diff.Opt{diff.WithMediaType("application/x")}},
		"compressor":     {lower, upper, []diff.Opt{diff.WithMediaType(ocispec.MediaTypeImageLayerGzip), diff.WithCompressor(func(io.Writer, string) (io.WriteCloser, error) { return nil, nil })}},
	} {
		if _, err := b.Compare(b.ctx, c.lower, c.upper, c.opts...); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// asked notes the namespaces in which a content store is asked.
type asked struct {
	content.Store
	in map[string]bool
}

func (a asked) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	a.note(ctx)
	return a.Store.ReaderAt(ctx, desc)
}

func (a asked) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	a.note(ctx)
	return a.Store.Writer(ctx, opts...)
}

func (a asked) note(ctx context.Context) {
	name, _ := namespaces.Namespace(ctx)
	a.in[name] = true
}

// Blobs are looked for in the namespace of the request, or where it has none in that of the
// snapshot: containerd 1.7 names none.
func TestNamespace(t *testing.T) {
	b := newDifferBench(t)
	blob := b.put(ocispec.MediaTypeImageLayer, layerTar(t, "one"))
	for name, c := range map[string]struct {
		key, request, want string
	}{
		"of the request":  {"there/7/key", "here", "here"},
		"of the snapshot": {"there/7/key two/parts", "", "there"},
		"none":            {"key", "", ""},
		"no number":       {"there/x/key", "", ""},
	} {
		ctx := b.ctx
		if c.request != "" {
			ctx = namespaces.WithNamespace(ctx, c.request)
		}
		store := asked{b.blobs, map[string]bool{}}
		d := snapshotter.NewDiffer(b.Snapshotter, store)
		_, err := d.Apply(ctx, blob, b.prepare(c.key, ""))
		b.ok(err)
		nothing, err := b.View(b.ctx, "nothing", "")
		b.ok(err)
		b.ok(b.Commit(b.ctx, c.key+"+", c.key))
		view, err := b.View(b.ctx, "view", c.key+"+")
		b.ok(err)
		_, err = d.Compare(ctx, nothing, view)
		b.ok(err)
		if len(store.in) != 1 || !store.in[c.want] {
			t.Errorf("%s: asked in %v, want %q", name, store.in, c.want)
		}
		b.ok(errors.Join(b.Remove(b.ctx, "view"), b.Remove(b.ctx, "nothing"), b.Remove(b.ctx, c.key+"+")))
	}
}
