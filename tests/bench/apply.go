package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/go-archive"
	"github.com/moby/go-archive/chrootarchive"
	"golang.org/x/sys/unix"
)

// smallFiles is the tree of many small files: source trees and language
// packages look like it.
const smallFiles = 40000

// smallTree is the layer tar of that tree.
func smallTree() ([]byte, error) { return filesTree(smallFiles, 1) }

// filesTree is a layer tar of n files of 100 to 1,500 bytes, 40 in a directory. Each seed has
// other files.
func filesTree(n int, seed uint64) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // the same tree in each run
	body := make([]byte, 1500)
	for i := range n {
		if i%40 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%04d/", i/40), Mode: 0o755, ModTime: time.Unix(1, 0)}); err != nil {
				return nil, err
			}
		}
		size := 100 + r.IntN(1400)
		for j := range body[:size] {
			body[j] = byte(r.Uint32())
		}
		h := tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%04d/f%02d", i/40, i%40), Mode: 0o644, Size: int64(size), ModTime: time.Unix(1, 0)}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(body[:size]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// applyPair compares ApplyDiff of one tar, driver against driver.
func (b *bench) applyPair(ctx context.Context, name string, layer []byte, goal float64) error {
	dir := filepath.Join(b.plainRoot, "apply")
	t, err := turns(b.repeats, func(turn int) (float64, error) {
		return b.pluginApply(ctx, b.plugin, name, turn, layer)
	}, func(int) (float64, error) {
		if err := b.settle(); err != nil {
			return 0, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
		t, err := timed(func() error { return overlayApply(dir, layer, b.persist) })
		if err != nil {
			return 0, fmt.Errorf("plain unpack of %s: %w", name, err)
		}
		return t, os.RemoveAll(dir)
	})
	if err != nil {
		return err
	}
	b.add(pair("ApplyDiff, "+name, "s", "overlay2 (untar+sync)", t[0], t[1], goal, false))
	return nil
}

// overlayApply does what overlay2's ApplyDiff does, and then makes it durable.
func overlayApply(dir string, layer []byte, disk string) error {
	opts := &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat}
	if err := chrootarchive.UntarUncompressed(bytes.NewReader(layer), dir, opts); err != nil {
		return err
	}
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	return syncDisk(disk)
}

// loadPair compares docker load of an image, engine against engine.
func (b *bench) loadPair(ctx context.Context, name, tag, file string) error {
	load := func(host string) func(int) (float64, error) {
		return func(int) (float64, error) {
			if err := b.settle(); err != nil {
				return 0, err
			}
			t, err := timed(func() error {
				if _, err := dockerOn(ctx, host, "load", "-q", "-i", file); err != nil {
					return err
				}
				return syncDisk(b.persist)
			})
			if err != nil {
				return 0, err
			}
			_, err = dockerOn(ctx, host, "rmi", tag)
			return t, err
		}
	}
	t, err := turns(b.repeats, load(b.mainHost), load(b.plainHost))
	if err != nil {
		return err
	}
	b.add(pair("docker load, "+name, "s", "overlay2 (+sync)", t[0], t[1], 0, false))
	return nil
}

// syncDisk makes everything on the file system of path durable.
func syncDisk(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// settle gives each measurement the same start: nothing dirty, nothing cached.
func (b *bench) settle() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200)
}

// timed is how long f took, in seconds.
func timed(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return round3(time.Since(start).Seconds()), err
}
