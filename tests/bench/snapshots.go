package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"layervault/tests/e2e/sample"
)

// ours is the name of layervault's snapshotter.
const ours = "layervault"

// Goals of the ratio to containerd's overlayfs snapshotter.
const (
	unpackGoal = 0.35
	chainGoal  = 0.5
	runGoal    = 1.10
)

// snapshotSteps compare layervault's snapshotter and differ with containerd's own snapshotters, of
// which overlayfs is the first.
func (b *bench) snapshotSteps(ctx context.Context, debian, small []byte) []step {
	ctx = inNamespace(ctx)
	chain := func() (layers [][]byte, err error) {
		for seed := range uint64(chainLength) {
			layer, err := filesTree(chainFiles, seed)
			if err != nil {
				return nil, err
			}
			layers = append(layers, layer)
		}
		return layers, nil
	}
	return []step{
		{"run", func() error { return b.runSnapshots(ctx, debian) }},
		{"unpack", func() error { return b.unpackAll(ctx, "Debian root", [][]byte{debian}, nil, unpackGoal) }},
		{"unpack", func() error { return b.unpackAll(ctx, "40,000 small files", [][]byte{small}, nil, unpackGoal) }},
		{"unpack", func() error {
			layers, err := chain()
			if err != nil {
				return err
			}
			return b.unpackAll(ctx, fmt.Sprintf("%d layers", chainLength), layers, nil, chainGoal)
		}},
		{"unpack", func() error { return b.unpackAll(ctx, "Debian root, gzip", [][]byte{debian}, gzipped, 0) }},
		{"memory", func() error { return b.snapshotMemory(ctx) }},
	}
}

// chainFiles is how many files each layer of the long image has.
const chainFiles = 200

func gzipped(tar []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(tar)
	return out.Bytes(), errors.Join(err, w.Close())
}

// unpackAll compares how long an image's layers take from the content store until they are
// durable snapshots.
func (b *bench) unpackAll(ctx context.Context, name string, tars [][]byte, pack func([]byte) ([]byte, error), goal float64) error {
	return b.containerd.leased(ctx, func(held context.Context) error {
		var layers []blob
		for _, tar := range tars {
			l, err := b.containerd.put(held, tar, pack)
			if err != nil {
				return err
			}
			layers = append(layers, l)
		}
		var sides []func(int) (float64, error)
		for _, snapshotter := range b.snapshotters {
			sides = append(sides, func(int) (t float64, err error) {
				err = b.containerd.leased(ctx, func(ctx context.Context) error {
					if err := b.settle(); err != nil {
						return err
					}
					t, err = timed(func() error {
						if _, err := b.containerd.unpack(ctx, snapshotter, layers); err != nil {
							return fmt.Errorf("%s: %w", snapshotter, err)
						}
						return syncDisk(b.persist)
					})
					return err
				})
				return t, err
			})
		}
		return b.compare("unpack, "+name, b.repeats, goal, sides)
	})
}

// compare measures all snapshotters in the same turns: a row for each but ours. The goal is the
// one for the first of them.
func (b *bench) compare(name string, n int, goal float64, sides []func(int) (float64, error)) error {
	t, err := turns(n, sides...)
	if err != nil {
		return err
	}
	for i, other := range b.snapshotters[1:] {
		if i > 0 {
			goal = 0
		}
		b.add(pair(name, "s", other, t[0], t[i+1], goal, false))
	}
	return nil
}

// runSnapshots compares ctr run --rm, warm.
func (b *bench) runSnapshots(ctx context.Context, debian []byte) error {
	const image = "docker.io/library/bench:latest"
	file := filepath.Join(os.TempDir(), "bench-image.tar")
	defer os.Remove(file)
	var archive bytes.Buffer
	if err := sample.Image(&archive, image, [][]byte{debian}); err != nil {
		return err
	}
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		return err
	}
	var sides []func(int) (float64, error)
	for _, snapshotter := range b.snapshotters {
		if err := b.containerd.ctr(ctx, "image", "import", "--local", "--snapshotter", snapshotter, file); err != nil {
			return err
		}
		sides = append(sides, func(int) (float64, error) {
			return timed(func() error {
				return b.containerd.ctr(ctx, "run", "--rm", "--snapshotter", snapshotter, image, "bench-"+snapshotter, "true")
			})
		})
	}
	if _, err := turns(1, sides...); err != nil { // fills the caches
		return err
	}
	if err := b.compare("ctr run --rm", b.runs, runGoal, sides); err != nil {
		return err
	}
	return b.containerd.ctr(ctx, "image", "rm", "--sync", image)
}

// snapshotMemory measures the service with 500 layers and 100 mounted containers.
func (b *bench) snapshotMemory(ctx context.Context) error {
	return b.containerd.leased(ctx, func(ctx context.Context) (err error) {
		var tops []string
		for n := range memoryLayers / chainLength {
			var layers []blob
			for i := range chainLength {
				tar, err := filesTree(1, uint64(n*chainLength+i))
				if err != nil {
					return err
				}
				l, err := b.containerd.put(ctx, tar, nil)
				if err != nil {
					return err
				}
				layers = append(layers, l)
			}
			top, err := b.containerd.unpack(ctx, ours, layers)
			if err != nil {
				return err
			}
			tops = append(tops, top)
		}
		root, err := os.MkdirTemp("", "bench-containers-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unmountBelow(root)) }()
		sn := b.containerd.snapshotter(ours)
		for n := range memoryContainers {
			m, err := sn.Prepare(ctx, fmt.Sprintf("container-%d", n), tops[n%len(tops)])
			if err != nil {
				return err
			}
			at := filepath.Join(root, fmt.Sprint(n))
			if err := errors.Join(os.Mkdir(at, 0o700), mount.All(m, at)); err != nil {
				return err
			}
		}
		rss, peak, err := pluginMemory()
		if err != nil {
			return err
		}
		b.add(single("service's memory, 500 layers and 100 containers", "MiB", []float64{rss}, 64),
			single("the same, its peak", "MiB", []float64{peak}, 0))
		return nil
	})
}

// unmountBelow unmounts what is mounted at the folders of dir, and removes dir.
func unmountBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := unix.Unmount(filepath.Join(dir, e.Name()), 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", e.Name(), err)
		}
	}
	return os.RemoveAll(dir)
}
