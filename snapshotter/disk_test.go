package snapshotter_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
)

// newSmallDisk is a bench whose layers lie on a disk of 32 MiB.
func newSmallDisk(t *testing.T) *differBench {
	t.Helper()
	b := newDifferBench(t)
	b.ok(b.Stop())
	b.ok(unix.Mount("tmpfs", filepath.Join(b.dir, "layers"), "tmpfs", 0, "size=32m"))
	b.start()
	b.Differ = snapshotter.NewDiffer(b.Snapshotter, b.blobs)
	return b
}

// noise is content that no compression makes smaller.
func noise(size int) string {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // documented to return no error
	return string(data)
}

// A layer that does not fit on the disk is refused and leaves nothing; what was there is none the
// worse.
func TestApplyDiskFull(t *testing.T) {
	b := newSmallDisk(t)
	b.unpackBase()
	large, err := snapshottertest.FileTar("large", noise(64<<20))
	b.ok(err)
	small := b.put(ocispec.MediaTypeImageLayer, layerTar(t, "small"))
	m := b.unpackOn("b", "a")
	if _, err := b.Apply(b.ctx, b.put(ocispec.MediaTypeImageLayer, large), m); !errdefs.IsResourceExhausted(err) {
		t.Errorf("64 MiB on a disk of 32: %v", err)
	}
	if names, err := filepath.Glob(filepath.Join(b.dir, "layers", ".tmp-*")); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	_, err = b.Apply(b.ctx, small, m)
	b.ok(err)
	b.ok(b.Commit(b.ctx, chainName("b"), extract("b")))
	b.shows(b.prepare("container", chainName("b")), "base small")
}

// A container meets the end of the disk within its own layer; new ones are refused until there is
// space again.
func TestContainerDiskFull(t *testing.T) {
	b := newSmallDisk(t)
	b.commit("base", "")
	m := b.prepare("container", "base")
	fill := filepath.Join(b.dir, "layers", ".fill")
	b.at(m, func(dir string) {
		var st unix.Statfs_t
		b.ok(unix.Statfs(filepath.Dir(fill), &st))
		b.ok(os.WriteFile(fill, bytes.Repeat([]byte{1}, int(st.Bavail)*int(st.Bsize)-4<<20), 0o600))
		f, err := os.Create(filepath.Join(dir, "file"))
		b.ok(err)
		_, err = f.WriteString(noise(16 << 20))
		if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
			t.Error("16 MiB on a disk with 4")
		}
	})
	// No byte is free.
	if err := os.WriteFile(fill+"-rest", make([]byte, 32<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if _, err := b.Prepare(b.ctx, "another", "base"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("prepare on a full disk: %v", err)
	}
	if _, err := b.Stat(b.ctx, "another"); !errdefs.IsNotFound(err) {
		t.Errorf("the refused snapshot: %v", err)
	}
	b.ok(b.Remove(b.ctx, "container"))
	b.ok(errors.Join(os.Remove(fill), os.Remove(fill+"-rest")))
	b.shows(b.prepare("next", "base"), "base")
}
