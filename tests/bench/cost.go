package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// Goals of what a sealed layer takes on disk, its hash tree included, as ratios to its tar.
const (
	debianOnDisk = 1.00
	smallOnDisk  = 0.65
)

// costly is a layer whose size on disk has a goal.
type costly struct {
	name string
	tar  []byte
	goal float64
}

// diskCost measures what an empty writable layer and sealed layers take on disk.
func (b *bench) diskCost(ctx context.Context, layers ...costly) error {
	name, err := dockerOn(ctx, b.mainHost, "create", "--network", "none", "busybox", "true")
	if err != nil {
		return err
	}
	path, err := dockerOn(ctx, b.mainHost, "inspect", "--format", `{{index .GraphDriver.Data "ImagePath"}}`, name)
	if err != nil {
		return err
	}
	used, err := allocated(path)
	if err != nil {
		return err
	}
	b.add(single("empty writable layer on disk", "MiB", []float64{round3(used / mib)}, 8))
	if _, err := dockerOn(ctx, b.mainHost, "rm", name); err != nil {
		return err
	}
	for _, l := range layers {
		id := "bench-cost"
		if err := b.plugin.apply(ctx, id, "", bytes.NewReader(l.tar)); err != nil {
			return err
		}
		used, err := allocated(filepath.Join(b.persist, "vault/layers", id, "image.luks"))
		if err != nil {
			return err
		}
		if err := b.plugin.remove(ctx, id); err != nil {
			return err
		}
		b.add(pair("sealed layer on disk, "+l.name, "MiB", "its tar", []float64{round3(used / mib)}, []float64{round3(float64(len(l.tar)) / mib)}, l.goal, false))
	}
	return nil
}

// allocated is what a file takes on disk, in bytes.
func allocated(path string) (float64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return float64(st.Blocks) * 512, nil
}

const (
	memoryLayers     = 500
	memoryContainers = 100
	chainLength      = 20 // layers of one image
)

// memory measures the plugin with 500 layers and 100 mounted containers, made as
// dockerd makes them but without the containers' processes.
func (b *bench) memory(ctx context.Context) error {
	layer, err := oneFile()
	if err != nil {
		return err
	}
	var made, tops, mounted []string
	parent := ""
	for i := range memoryLayers {
		if i%chainLength == 0 {
			parent = ""
		}
		id := fmt.Sprintf("bench-memory-%d", i)
		if err := b.plugin.apply(ctx, id, parent, bytes.NewReader(layer)); err != nil {
			return err
		}
		made, parent = append(made, id), id
		if i%chainLength == chainLength-1 {
			tops = append(tops, id)
		}
	}
	for i := range memoryContainers {
		id := fmt.Sprintf("bench-container-%d", i)
		if _, err := b.plugin.call(ctx, "CreateReadWrite", pluginRequest{ID: id, Parent: tops[i%len(tops)]}); err != nil {
			return err
		}
		made = append(made, id)
		if _, err := b.plugin.call(ctx, "Get", pluginRequest{ID: id}); err != nil {
			return err
		}
		mounted = append(mounted, id)
	}
	rss, peak, err := pluginMemory()
	if err != nil {
		return err
	}
	b.add(single("plugin's memory, 500 layers and 100 containers", "MiB", []float64{rss}, 64),
		single("the same, its peak", "MiB", []float64{peak}, 0))
	for _, id := range mounted {
		if _, err := b.plugin.call(ctx, "Put", pluginRequest{ID: id}); err != nil {
			return err
		}
	}
	for i := len(made) - 1; i >= 0; i-- {
		if err := b.plugin.remove(ctx, made[i]); err != nil {
			return err
		}
	}
	return nil
}

// pluginMemory is VmRSS and VmHWM of the plugin's process, MiB.
func pluginMemory() (rss, peak float64, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, 0, err
	}
	for _, n := range names {
		line, err := os.ReadFile(n)
		if err != nil || !strings.HasSuffix(strings.Split(string(line), "\x00")[0], "layervault") || !bytes.Contains(line, []byte("\x00serve")) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(n), "status"))
		if err != nil {
			return 0, 0, err
		}
		for l := range strings.Lines(string(status)) {
			f := strings.Fields(l)
			if len(f) != 3 || f[0] != "VmRSS:" && f[0] != "VmHWM:" {
				continue
			}
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return 0, 0, err
			}
			if f[0] == "VmRSS:" {
				rss = round3(kib / 1024)
			} else {
				peak = round3(kib / 1024)
			}
		}
		return rss, peak, nil
	}
	return 0, 0, fmt.Errorf("the plugin's process is not there")
}
