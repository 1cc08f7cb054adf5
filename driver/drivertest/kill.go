package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"layervault/driver"
	"layervault/layer/layertest"
	"layervault/persist"
)

// Main is TestMain of a package that runs the suite: in the helper process, which
// is the same binary, it does the helper's work instead. Both have the plugin's capabilities.
func Main(m *testing.M, make Factory) {
	if err := confine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir := layertest.Helper()
	if dir == "" {
		goleak.VerifyTestMain(m)
	}
	if err := help(context.Background(), dir, make); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// killLayers is how many layers the helper works on at once.
const killLayers = 4

func helperConfig(dir string, make Factory) driver.Config {
	cfg := driver.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")}, DefaultSize: defaultSize,
		Scratch: filepath.Join(dir, "scratch"),
		Log:     slog.New(slog.DiscardHandler),
	}
	make(&cfg)
	return cfg
}

func help(ctx context.Context, dir string, make Factory) error {
	cfg := helperConfig(dir, make)
	cfg.Checkpoint = layertest.HelperCheckpoint
	d := driver.New(cfg)
	if err := d.Init(ctx, driver.Options{Home: filepath.Join(dir, "home")}); err != nil {
		return err
	}
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for n := range killLayers {
		g.Go(func() error {
			for round := 0; ; round++ {
				if err := helpRound(ctx, d, fmt.Sprintf("k%d-%d", n, round), body); err != nil {
					return err
				}
				if err := layertest.HelperRound(round); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// helpRound does everything once: an image, a container on it, a commit.
func helpRound(ctx context.Context, d *driver.Driver, id string, body []byte) error {
	rw := id + "-rw"
	if err := d.Create(ctx, id, "done", nil); err != nil {
		return err
	}
	if _, err := d.ApplyDiff(ctx, id, "done", bytes.NewReader(body)); err != nil {
		return err
	}
	if err := d.CreateReadWrite(ctx, rw, id, nil); err != nil {
		return err
	}
	dir, err := d.Get(ctx, rw, "")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), body, 0o644); err != nil {
		return err
	}
	if err := d.Put(ctx, rw); err != nil {
		return err
	}
	fresh := id + "-fresh"
	if err := d.Create(ctx, fresh, id, nil); err != nil {
		return err
	}
	if _, err := d.Get(ctx, fresh, ""); err != nil {
		return err
	}
	if err := d.Put(ctx, fresh); err != nil {
		return err
	}
	if _, err := d.ApplyDiff(ctx, fresh, id, bytes.NewReader(body)); err != nil {
		return err
	}
	return errors.Join(d.Remove(ctx, rw), d.Remove(ctx, fresh), d.Remove(ctx, id))
}

// testKill kills a helper at each checkpoint, and at whatever moment after some
// rounds, and wants a clean restart each time: what was answered for is there,
// what was not is gone or usable, everything can be removed, nothing leaks.
func testKill(t *testing.T, make Factory) {
	for _, kill := range layertest.Kills(
		"create/directory made", "create/image made", "create/record written", "create/renamed",
		"import into/image made", "import into/image renamed", "import into/record written",
		"make writable/image made", "make writable/image renamed", "make writable/record written",
		"reset/record written", "remove/renamed", "remove/unlinked",
	) {
		t.Run(kill, func(t *testing.T) {
			b := newBench(t, make)
			b.cfg = helperConfig(filepath.Dir(b.persist), make)
			b.home = filepath.Join(filepath.Dir(b.persist), "home")
			b.Driver = driver.New(b.cfg)
			b.init()
			body := makeTar(t, file("file", strings.Repeat("body", 50000)))
			b.apply("done", "", body)
			want := b.diff("done", "")
			b.ok(b.Close(b.ctx))

			layertest.KillHelper(t, filepath.Dir(b.persist), kill, body)

			b.Driver = driver.New(b.cfg)
			b.ok(b.Resume(b.ctx))
			t.Cleanup(b.removeAll)
			if got := b.diff("done", ""); !bytes.Equal(got, want) {
				t.Error("a committed layer changed")
			}
			s, err := b.Store()
			b.ok(err)
			ids, err := s.IDs()
			b.ok(err)
			for _, id := range ids {
				r, err := s.Get(id)
				b.ok(err)
				t.Logf("left: %s, %s", id, r.Kind)
				b.with(id, func(dir string) {
					if r.Kind == "sealed" {
						wantContent(t, dir, "file", strings.Repeat("body", 50000))
					}
				})
			}
		})
	}
}
