package stack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/go-archive"
	"github.com/moby/sys/user"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/layer/layertest"
	"layervault/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a stack on a store of plain images.
type bench struct {
	*testing.T
	*stack.Stack
	ctx     context.Context
	store   *layer.Store
	scratch string
}

// newBench makes a store with an image of two layers, base and image, and a writable layer top on
// them.
func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "stack"); err == nil { // no disk to wait for
		dir = shm
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
	}
	b := &bench{T: t, ctx: t.Context(), scratch: filepath.Join(dir, "scratch")}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	b.store, err = layer.Open(b.ctx, layer.Config{
		Root: filepath.Join(dir, "layers"), Scratch: b.scratch, Keys: layertest.Keys{}, Devices: layertest.Devices,
		SweepDevices: func(context.Context) error { return nil }, Log: log,
	})
	b.ok(err)
	t.Cleanup(func() { b.ok(b.store.Close(context.Background())) })
	b.Stack = stack.New(b.store, user.IdentityMapping{}, log)
	b.apply("base", "", "keep", "delete", "dir/a", "dir/b")
	b.apply("image", "base", "image")
	b.create("top", "image", true)
	return b
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) create(id, parent string, readWrite bool) {
	b.Helper()
	b.ok(b.store.Create(b.ctx, id, parent, layer.CreateOptions{ReadWrite: readWrite, DefaultSize: 32 << 20}))
}

// apply makes a sealed layer of files that hold their own names.
func (b *bench) apply(id, parent string, names ...string) {
	b.Helper()
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	for _, name := range names {
		b.ok(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(name)), ModTime: time.Unix(1, 0)}))
		_, err := io.WriteString(w, name)
		b.ok(err)
	}
	b.ok(w.Close())
	b.create(id, parent, false)
	_, err := b.store.Import(b.ctx, id, &body, user.IdentityMapping{})
	b.ok(err)
}

func (b *bench) record(id string) layer.Record {
	b.Helper()
	r, err := b.store.Get(id)
	b.ok(err)
	return r
}

// with mounts a layer and runs f in it.
func (b *bench) with(id string, f func(dir string)) {
	b.Helper()
	chain, err := b.Open(b.ctx, id)
	b.ok(err)
	at := b.TempDir()
	b.ok(errors.Join(chain.Mount(at, ""), chain.Close(b.ctx)))
	defer func() { b.ok(unix.Unmount(at, 0)) }()
	f(at)
}

// change alters the layer top in each way that a tar can tell.
func (b *bench) change() {
	b.Helper()
	b.with("top", func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		b.ok(os.Remove(at("delete")))
		b.ok(os.RemoveAll(at("dir")))
		b.ok(os.Mkdir(at("dir"), 0o755)) // opaque
		b.ok(os.WriteFile(at("dir/c"), []byte("12345"), 0o644))
		b.ok(os.Link(at("dir/c"), at("link")))
		b.ok(os.WriteFile(at("keep"), []byte("kept"), 0o644))
	})
}

// nothingOpen wants no image to be left in the scratch directory.
func (b *bench) nothingOpen() {
	b.Helper()
	if left, err := filepath.Glob(filepath.Join(b.scratch, "*")); err != nil || len(left) != 0 {
		b.Errorf("left in scratch: %v (%v)", left, err)
	}
}

// names lists what a directory holds.
func (b *bench) names(dir string) string {
	b.Helper()
	entries, err := os.ReadDir(dir)
	b.ok(err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestMount(t *testing.T) {
	b := newBench(t)
	b.create("fresh", "base", false) // has no image: not in the chain of what stands on it
	b.apply("on-fresh", "fresh", "new")
	for id, want := range map[string]string{
		"base": "delete dir keep", "image": "delete dir image keep", "top": "delete dir image keep", "on-fresh": "delete dir keep new",
	} {
		b.with(id, func(dir string) {
			if got := b.names(dir); got != want {
				t.Errorf("%s shows %s", id, got)
			}
			err := os.WriteFile(filepath.Join(dir, "written"), nil, 0o600)
			if writable := err == nil; writable != (id == "top") || err != nil && !errors.Is(err, unix.EROFS) {
				t.Errorf("write to %s: %v", id, err)
			}
		})
	}
	b.create("alone", "", true) // one image: bound, not stacked
	b.with("alone", func(dir string) { b.ok(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)) })
	b.nothingOpen()
	if _, err := b.Open(b.ctx, "nobody"); !errors.Is(err, layer.ErrNotFound) {
		t.Errorf("an unknown layer: %v", err)
	}
	b.create("empty", "", false)
	chain, err := b.Open(b.ctx, "empty")
	b.ok(err)
	if err := chain.Mount(t.TempDir(), ""); !errors.Is(err, stack.ErrNoContent) {
		t.Errorf("mount of no images: %v", err)
	}
	b.ok(chain.Close(b.ctx))
}

func TestChanges(t *testing.T) {
	b := newBench(t)
	b.change()
	for parent, want := range map[string][]archive.Change{
		"image": {
			{Path: "/delete", Kind: archive.ChangeDelete}, {Path: "/dir", Kind: archive.ChangeModify}, {Path: "/dir/a", Kind: archive.ChangeDelete},
			{Path: "/dir/b", Kind: archive.ChangeDelete}, {Path: "/dir/c", Kind: archive.ChangeAdd}, {Path: "/keep", Kind: archive.ChangeModify},
			{Path: "/link", Kind: archive.ChangeAdd},
		},
		"base": {
			{Path: "/delete", Kind: archive.ChangeDelete}, {Path: "/dir", Kind: archive.ChangeModify}, {Path: "/dir/a", Kind: archive.ChangeDelete},
			{Path: "/dir/b", Kind: archive.ChangeDelete}, {Path: "/dir/c", Kind: archive.ChangeAdd}, {Path: "/image", Kind: archive.ChangeAdd},
			{Path: "/keep", Kind: archive.ChangeModify}, {Path: "/link", Kind: archive.ChangeAdd},
		},
	} {
		got, err := b.Changes(b.ctx, b.record("top"), parent)
		b.ok(err)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("over %s (-want +got):\n%s", parent, d)
		}
	}
	if _, err := b.Changes(b.ctx, b.record("top"), "../base"); !errors.Is(err, layer.ErrBadID) {
		t.Errorf("a bad parent: %v", err)
	}
	b.nothingOpen()
}

// list reads a stream and names the entries of its tar.
func (b *bench) list(in io.ReadCloser) (entries []string) {
	b.Helper()
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		b.ok(err)
		line := h.Name
		if h.Linkname != "" {
			line += "->" + h.Linkname
		}
		entries = append(entries, line)
	}
	_, err := io.Copy(io.Discard, in)
	b.ok(errors.Join(err, in.Close()))
	slices.Sort(entries)
	return entries
}

func TestDiff(t *testing.T) {
	b := newBench(t)
	b.change()
	for parent, want := range map[string]string{
		"image": ".wh.delete dir/ dir/.wh..wh..opq dir/c keep link->dir/c",
		"base":  ".wh.delete dir/ dir/.wh.a dir/.wh.b dir/c image keep link->dir/c",
		"":      "dir/ dir/c image keep link->dir/c",
	} {
		in, err := b.Diff(b.ctx, b.record("top"), parent)
		b.ok(err)
		if got := strings.Join(b.list(in), " "); got != want {
			t.Errorf("over %q: %s", parent, got)
		}
	}
	b.create("fresh", "image", false)
	in, err := b.Diff(b.ctx, b.record("fresh"), "image")
	b.ok(err)
	if got := b.list(in); len(got) != 0 {
		t.Errorf("a fresh layer holds %v", got)
	}
	if _, err := b.Diff(b.ctx, b.record("top"), "nobody"); !errors.Is(err, layer.ErrNotFound) {
		t.Errorf("an unknown parent: %v", err)
	}
	b.nothingOpen()
}

// A layer is compared from its upper directory while it is mounted and written to.
func TestDiffMounted(t *testing.T) {
	b := newBench(t)
	b.with("top", func(dir string) {
		for n := range 3 {
			b.ok(os.WriteFile(filepath.Join(dir, fmt.Sprint("file", n)), nil, 0o600))
			in, err := b.Diff(b.ctx, b.record("top"), "image")
			b.ok(err)
			if got := b.list(in); len(got) != n+1 {
				t.Errorf("after %d files: %v", n+1, got)
			}
		}
	})
	b.nothingOpen()
}

// A stream that is not read to its end leaves nothing open.
func TestDiffBrokenOff(t *testing.T) {
	b := newBench(t)
	b.with("top", func(dir string) { b.ok(os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600)) })
	in, err := b.Diff(b.ctx, b.record("top"), "image")
	b.ok(err)
	_, err = io.ReadFull(in, make([]byte, 1024))
	b.ok(errors.Join(err, in.Close(), in.Close()))
	ctx, cancel := context.WithCancelCause(b.ctx)
	in, err = b.Diff(ctx, b.record("top"), "image")
	b.ok(err)
	why := errors.New("no more")
	cancel(why)
	if _, err := io.Copy(io.Discard, in); !errors.Is(err, why) {
		t.Errorf("reading ended with %v", err)
	}
	b.ok(in.Close())
	b.nothingOpen()
}

func TestSizes(t *testing.T) {
	b := newBench(t)
	size := func(id, parent string, want int64) {
		t.Helper()
		if got, err := b.Size(b.ctx, b.record(id), parent); err != nil || got != want {
			t.Errorf("%s over %q has %d bytes, want %d (%v)", id, parent, got, want, err)
		}
	}
	usage := func(id string, inodes int64) int64 {
		t.Helper()
		got, err := b.Usage(b.ctx, b.record(id))
		if err != nil || got.Inodes != inodes {
			t.Errorf("%s uses %+v, want %d inodes (%v)", id, got, inodes, err)
		}
		return got.Bytes
	}
	empty := func(id string, want bool) {
		t.Helper()
		if got, err := b.Empty(b.ctx, b.record(id)); err != nil || got != want {
			t.Errorf("%s empty: %t (%v)", id, got, err)
		}
	}
	b.create("fresh", "image", false)
	size("fresh", "image", 0)
	usage("fresh", 0)
	empty("fresh", true)
	size("base", "", int64(len("keep"+"delete"+"dir/a"+"dir/b")))
	usage("base", 6)
	size("top", "image", 0)
	before := usage("top", 1)
	empty("top", true)
	b.change()
	size("top", "image", int64(len("12345"+"kept"))) // a link counts once
	size("top", "", int64(len("12345"+"kept"+"image")))
	empty("top", false)
	// The root, dir, dir/c, keep, the whiteout of delete; ext4 keeps dir and two files in a block each.
	if grown := usage("top", 5) - before; grown < 3*4096 {
		t.Errorf("three blocks were written, %d bytes more are used", grown)
	}
	b.nothingOpen()
}
