package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Goals of reading all files of a layer, as ratios to a commit whose sealed layers are ext4
// without a hash tree.
const (
	coldGoal = 0.20 // of the layer of small files: five times as fast
	warmGoal = 1.02
)

// warmPasses is how often a turn reads all files from the page cache: once takes a fraction of a
// second, in which a busy machine may do anything.
const warmPasses = 3

// baseRead compares how long it takes to read all files of a sealed layer, with nothing of it in
// memory and with all of it there.
func (b *bench) baseRead(ctx context.Context, name string, layer []byte, goal float64) error {
	id := "bench-read"
	var sides []func(int) (float64, error)
	warm := make([][]float64, 2)
	for i, p := range []*plugin{b.plugin, b.basePlugin} {
		if err := p.apply(ctx, id, "", bytes.NewReader(layer)); err != nil {
			return err
		}
		got, err := p.call(ctx, "Get", pluginRequest{ID: id})
		if err != nil {
			return err
		}
		sides = append(sides, func(int) (float64, error) {
			if err := b.settle(); err != nil {
				return 0, err
			}
			cold, err := timed(func() error { return readTree(got.Dir) })
			if err != nil {
				return 0, err
			}
			again, err := timed(func() error {
				for range warmPasses {
					if err := readTree(got.Dir); err != nil {
						return err
					}
				}
				return nil
			})
			warm[i] = append(warm[i], again)
			return cold, err
		})
	}
	t, err := turns(b.repeats, sides...)
	if err != nil {
		return err
	}
	b.add(pair("cold read of all files, "+name, "s", "base "+b.base, t[0], t[1], goal, false),
		pair("warm read of all files, "+name, "s", "base "+b.base, warm[0], warm[1], warmGoal, false))
	for _, p := range []*plugin{b.plugin, b.basePlugin} {
		if _, err := p.call(ctx, "Put", pluginRequest{ID: id}); err != nil {
			return err
		}
		if err := p.remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// readTree reads every file below a directory to its end.
func readTree(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	buf := make([]byte, mib)
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			_, err := f.Read(buf)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
		}
	})
}

// baseDisk compares what sealed layers take on disk with their tars and with an earlier commit's.
func (b *bench) baseDisk(ctx context.Context, name string, layer []byte, goal float64) error {
	id := "bench-disk"
	var used [2]float64
	for i, side := range []struct {
		p     *plugin
		vault string
	}{{b.plugin, "bench-new"}, {b.basePlugin, "bench-base"}} {
		if err := side.p.apply(ctx, id, "", bytes.NewReader(layer)); err != nil {
			return err
		}
		n, err := allocated(filepath.Join(b.persist, side.vault, "vault/layers", id, "image.luks"))
		if err != nil {
			return err
		}
		used[i] = round3(n / mib)
		if err := side.p.remove(ctx, id); err != nil {
			return err
		}
	}
	payload := []float64{round3(float64(len(layer)) / mib)}
	b.add(pair("sealed layer on disk, "+name, "MiB", "its tar", used[:1], payload, goal, false),
		pair("sealed layer on disk, "+name, "MiB", "base "+b.base, used[:1], used[1:], 0, false))
	return nil
}
