package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// startLayers is how many layers the plugin starts with: a build host after a year.
const startLayers = 10000

// startup measures how long a plugin with 10,000 layers takes from its start to
// the answer of Init. It is a plugin of its own, on a vault of its own with a
// software key, so that the TPM's time is not in it.
func (b *bench) startup(ctx context.Context) (err error) {
	root := filepath.Join(b.persist, "bench-startup")
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	first, err := b.serve(ctx, root)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	if err := tar.NewWriter(&layer).Close(); err != nil {
		return err
	}
	if err := first.plugin.apply(ctx, "seed", "", &layer); err != nil {
		return errors.Join(err, first.stop())
	}
	if err := first.stop(); err != nil {
		return err
	}
	if err := copies(filepath.Join(root, "vault/layers"), "seed"); err != nil {
		return err
	}
	var times []float64
	for range b.repeats {
		if err := b.settle(); err != nil {
			return err
		}
		start := time.Now()
		s, err := b.serve(ctx, root)
		if err != nil {
			return err
		}
		times = append(times, round3(time.Since(start).Seconds()))
		if err := s.stop(); err != nil {
			return err
		}
	}
	b.add(single("start with 10,000 layers", "s", times, 1))
	return nil
}

// copies fills the store with layers that differ in their id: records are what a
// start reads.
func copies(layers, seed string) error {
	record, err := os.ReadFile(filepath.Join(layers, seed, "layer.json"))
	if err != nil {
		return err
	}
	for i := range startLayers {
		id := fmt.Sprintf("%s-%05d", seed, i)
		dir := filepath.Join(layers, id)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		mine := bytes.ReplaceAll(record, []byte(`"`+seed+`"`), []byte(`"`+id+`"`))
		if err := os.WriteFile(filepath.Join(dir, "layer.json"), mine, 0o600); err != nil {
			return err
		}
		// Hard links: the content is never read, and 10,000 copies would take minutes. ext4 allows 65,000 links.
		if err := os.Link(filepath.Join(layers, seed, "image.luks"), filepath.Join(dir, "image.luks")); err != nil {
			return err
		}
	}
	return nil
}

type server struct {
	cmd    *exec.Cmd
	plugin *plugin
}

// serve starts a plugin and returns when Init has answered.
func (b *bench) serve(ctx context.Context, root string) (*server, error) {
	socket := "/run/bench-startup.sock"
	cmd := exec.CommandContext(ctx, "layervault", "--persist", root, "serve", "--key", "versatile", "--socket", socket)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd, newPlugin(socket)}
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := s.plugin.call(ctx, "Init", pluginRequest{Home: "/run/bench-startup-home"})
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("start a plugin of 10,000 layers: %w: %s", err, log.String()), s.stop())
		}
		time.Sleep(time.Millisecond) // until it listens; short against what is measured
	}
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}
