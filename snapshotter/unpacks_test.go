package snapshotter_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
)

// What containerd's unpack labels its snapshots with.
const (
	labelChain  = "containerd.io/snapshot.ref"
	labelParent = "containerd.io/snapshot/parent-chain-id"
)

// extract is the key of the snapshot in which a layer is unpacked.
func extract(chain string) string { return "here/1/extract-1 " + chain }

// chainName is what it is committed as.
func chainName(chain string) string { return "here/2/" + chain }

// unpackOn prepares the snapshot of a layer as containerd does in turn, "" for the lowest one.
func (b *differBench) unpackOn(chain, parent string) []mount.Mount {
	b.Helper()
	if parent == "" {
		return b.prepare(extract(chain), "", labelChain, chain)
	}
	return b.prepare(extract(chain), chainName(parent), labelChain, chain)
}

// unpackBase unpacks the lowest layer by our differ: a file named base.
func (b *differBench) unpackBase() {
	b.Helper()
	_, err := b.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, layerTar(b.T, "base")), b.unpackOn("a", ""))
	b.ok(err)
	b.ok(b.Commit(b.ctx, chainName("a"), extract("a")))
}

func (b *differBench) kindOf(key string) layer.Kind { return b.layerOf(key).Kind }

// Only the lowest layer of an image gets a writable image when our differ unpacks it.
func TestUnpackCount(t *testing.T) {
	const layers = 5
	var count snapshottertest.Count
	b := newDifferBenchOf(t, count.Of(images))
	var want []string
	below := ""
	for n := range layers {
		name := fmt.Sprint("l", n)
		_, err := b.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, layerTar(t, name)), b.unpackOn(name, below))
		b.ok(err)
		b.ok(b.Commit(b.ctx, chainName(name), extract(name)))
		want, below = append(want, name), name
	}
	if w, s, e := count.Writable.Load(), count.Sealed.Load(), count.Erased.Load(); w != 1 || s != layers || e != 1 {
		t.Errorf("%d writable images, %d sealed ones, %d erased", w, s, e)
	}
	b.shows(b.prepare("container", chainName(below)), strings.Join(want, " "))
	if w := count.Writable.Load(); w != 2 {
		t.Errorf("%d writable images with a container", w)
	}
}

// A snapshot without an image becomes one with an image as soon as anybody asks for it.
func TestPromiseKept(t *testing.T) {
	b := newDifferBench(t)
	b.unpackBase()
	m := b.unpackOn("b", "a")
	if k := b.kindOf(extract("b")); k != layer.Fresh {
		t.Fatalf("layer is %s: nothing is tested", k)
	}
	if u, err := b.Usage(b.ctx, extract("b")); err != nil || u.Size != 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	asked, err := b.Mounts(b.ctx, extract("b"))
	b.ok(err)
	if fmt.Sprint(asked) != fmt.Sprint(m) {
		t.Errorf("mounts are %v, were %v", asked, m)
	}
	b.at(m, func(dir string) { b.write(filepath.Join(dir, "file"), "") })
	b.ok(b.Commit(b.ctx, chainName("b"), extract("b")))
	b.shows(b.prepare("container", chainName("b")), "base file")
	// That another differ may be at work is learned: the next one has an image.
	b.unpackOn("c", "b")
	if k := b.kindOf(extract("c")); k != layer.Writable {
		t.Errorf("layer is %s", k)
	}
}

// What our differ leaves to the next one finds a mount.
func TestPromiseForOtherDiffer(t *testing.T) {
	b := newDifferBench(t)
	b.unpackBase()
	m := b.unpackOn("b", "a")
	blob := b.put(ocispec.MediaTypeImageLayer, layerTar(t, "file", ".wh.base"))
	strange := blob
	strange.MediaType = "application/vnd.other"
	_, err := b.Apply(b.ctx, strange, m)
	b.wants(err, errdefs.ErrNotImplemented)
	_, err = apply.NewFileSystemApplier(b.blobs).Apply(b.ctx, blob, m)
	b.ok(err)
	b.ok(b.Commit(b.ctx, chainName("b"), extract("b")))
	b.shows(b.prepare("container", chainName("b")), "file")
}

// A differ that is asked in our place fails, and writes nothing outside an image; the next attempt
// succeeds.
func TestPromiseBroken(t *testing.T) {
	b := newDifferBench(t)
	b.unpackBase()
	walking := apply.NewFileSystemApplier(b.blobs)
	for name, files := range map[string][]string{"at the root": {"file"}, "below": {"dir/sub/file"}} {
		blob := b.put(ocispec.MediaTypeImageLayer, layerTar(t, files...))
		m := b.unpackOn("b", "a")
		if k := b.kindOf(extract("b")); k != layer.Fresh {
			t.Fatalf("layer is %s: nothing is tested", k)
		}
		_, err := walking.Apply(b.ctx, blob, m)
		b.wants(err, unix.ENOTDIR)
		if fi, err := os.Lstat(filepath.Join(b.At, b.layerOf(extract("b")).ID)); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
		if err := mount.All(m, t.TempDir()); err == nil {
			t.Errorf("%s: mounted", name)
		}
		b.ok(b.Remove(b.ctx, extract("b")))
		m = b.unpackOn("b", "a")
		_, err = walking.Apply(b.ctx, blob, m)
		b.ok(err)
		b.ok(b.Remove(b.ctx, extract("b")))
		b.ok(b.Remove(b.ctx, chainName("a")))
		b.unpackBase() // our differ again
	}
	b.ok(b.Remove(b.ctx, chainName("a")))
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	b.eventually("something is left", func() bool {
		left, err := os.ReadDir(b.At)
		return err == nil && len(left) == 0
	})
}

// A promise lasts over the end of the process, and over a reboot.
func TestPromiseLasts(t *testing.T) {
	for name, end := range map[string]func(*bench){"restart": (*bench).restart, "reboot": (*bench).reboot} {
		b := newDifferBench(t)
		b.unpackBase()
		for _, chain := range []string{"b", "c"} {
			b.unpackOn(chain, "a")
			if k := b.kindOf(extract(chain)); k != layer.Fresh {
				t.Fatalf("layer is %s: nothing is tested", k)
			}
		}
		m := b.unpackOn("d", "a")
		end(b.bench)
		d := snapshotter.NewDiffer(b.Snapshotter, b.blobs)
		blob := b.put(ocispec.MediaTypeImageLayer, layerTar(t, "file"))
		if _, err := d.Apply(b.ctx, blob, m); err != nil {
			t.Errorf("%s: apply: %v", name, err)
		}
		b.ok(b.Commit(b.ctx, chainName("d"), extract("d")))
		again, err := b.Mounts(b.ctx, extract("b"))
		b.ok(err)
		b.shows(again, "base")
		b.ok(b.Commit(b.ctx, chainName("c"), extract("c"))) // an empty layer
		b.shows(b.prepare("on c", chainName("c")), "base")
		b.shows(b.prepare("on d", chainName("d")), "base file")
	}
}

// A blob that was refused is no end: the same snapshot takes the right one.
func TestApplyAgain(t *testing.T) {
	b := newDifferBench(t)
	b.unpackBase()
	plain := layerTar(t, "file")
	for _, chain := range []string{"b", "c"} {
		m := b.unpackOn(chain, "a")
		if chain == "c" { // with an image
			_, err := b.Mounts(b.ctx, extract(chain))
			b.ok(err)
		}
		_, err := b.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, plain[:514]), m)
		b.wants(err, errdefs.ErrInvalidArgument)
		_, err = b.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, plain), m)
		b.ok(err)
		b.ok(b.Commit(b.ctx, chainName(chain), extract(chain)))
		b.shows(b.prepare("on "+chain, chainName(chain)), "base file")
	}
}

// Layers that are unpacked in parallel get their parent by their commit. A file that one of them
// deletes stays deleted, whatever differ is at work.
func TestRebaseDeletes(t *testing.T) {
	for _, ours := range []bool{true, false} {
		b := newDifferBench(t)
		applier := apply.NewFileSystemApplier(b.blobs)
		if ours {
			applier = b.Differ
		}
		chains := []string{"a", "b", "c"}
		files := [][]string{{"base", "dir/gone"}, {"kept", "deleted", "dir/.wh..wh..opq", "dir/new"}, {".wh.deleted", "top"}}
		var all [][]mount.Mount
		for n, chain := range chains {
			labels := []string{labelChain, chain}
			if n > 0 {
				labels = append(labels, labelParent, chains[n-1])
			}
			all = append(all, b.prepare(extract(chain), "", labels...))
		}
		for _, n := range []int{2, 0, 1} {
			_, err := applier.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, layerTar(t, files[n]...)), all[n])
			b.ok(err)
		}
		parent := ""
		for _, chain := range chains {
			b.ok(b.Commit(b.ctx, chainName(chain), extract(chain), snapshots.WithParent(parent)))
			parent = chainName(chain)
		}
		m := b.prepare("container", parent)
		b.shows(m, "base dir kept top")
		b.at(m, func(dir string) {
			entries, err := os.ReadDir(filepath.Join(dir, "dir"))
			b.ok(err)
			if len(entries) != 1 || entries[0].Name() != "new" {
				t.Errorf("ours %t: the replaced directory has %v", ours, entries)
			}
		})
	}
}

// A layer that waits for its parent has a mount that can be made.
func TestRebaseMount(t *testing.T) {
	b := newDifferBench(t)
	m := b.prepare(extract("b"), "", labelChain, "b", labelParent, "a")
	b.at(m, func(dir string) { b.write(filepath.Join(dir, "file"), "") })
	b.shows(m, "file")
	if !bytes.Contains(fmt.Append(nil, m), []byte("upperdir=")) {
		t.Errorf("mount is %v: deletions would be lost", m)
	}
}
