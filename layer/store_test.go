package layer_test

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
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/user"
	"go.uber.org/goleak"

	"layervault/crypt"
	"layervault/layer"
	"layervault/layer/layertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fileDevices makes images that are plain files and are never mounted: what the
// store does with its directories needs no more.
func fileDevices(im layer.Image) layer.Device { return fileDevice{im} }

type fileDevice struct{ im layer.Image }

func (d fileDevice) Import(_ context.Context, in io.Reader) (crypt.ImportResult, error) {
	data, err := io.ReadAll(in)
	if err != nil {
		return crypt.ImportResult{}, err
	}
	return crypt.ImportResult{Size: int64(len(data)), UUID: "uuid-of-" + d.im.Layer}, os.WriteFile(d.im.Path, data, 0o600)
}

func (d fileDevice) Mount(context.Context, string) error { return nil }

func (d fileDevice) Remove(context.Context) error {
	if err := os.Remove(d.im.Path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (d fileDevice) CreateHeld(context.Context, int64) (layer.Held, error) {
	return held{open: new(int)}, os.WriteFile(d.im.Path, []byte("writable "+d.im.Layer), 0o600)
}

func (d fileDevice) UUID() (string, error) { return "uuid-of-" + d.im.Layer, nil }

func (d fileDevice) Upgrade(context.Context) error { return nil }

func (d fileDevice) Outdated(context.Context) (bool, error) { return false, nil }

func (d fileDevice) Opened() (uint64, error) { return 0, nil }

func (d fileDevice) Hold(string) (layer.Held, error) { return held{open: new(int)}, nil }

// emptyTar is a layer tar without a file.
var emptyTar = make([]byte, 1024)

func config(t testing.TB) layer.Config {
	dir := t.TempDir()
	return layer.Config{
		Root: filepath.Join(dir, "layers"), Scratch: filepath.Join(dir, "scratch"),
		Keys: layertest.Keys{}, Devices: fileDevices, Log: slog.New(slog.DiscardHandler),
	}
}

func open(t testing.TB, cfg layer.Config) *layer.Store {
	t.Helper()
	s, err := layer.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func reopen(t *testing.T, s *layer.Store, cfg layer.Config) *layer.Store {
	t.Helper()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return open(t, cfg)
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestCrashStates makes every step fail at which a crash leaves another state,
// reopens the store on what was left, and wants each layer whole or absent, no
// garbage, and the operation to work when repeated.
func TestCrashStates(t *testing.T) {
	ctx := t.Context()
	importInto := func(s *layer.Store, id string) error {
		_, err := s.Import(ctx, id, bytes.NewReader(emptyTar), user.IdentityMapping{})
		return err
	}
	for _, c := range []struct {
		step   string
		run    func(s *layer.Store) error
		before layer.Kind // of layer x, "" for absent
		after  layer.Kind // once the store was opened again
	}{
		{"create/directory made", func(s *layer.Store) error { return s.Create(ctx, "x", "", layer.CreateOptions{}) }, "", ""},
		{"create/record written", func(s *layer.Store) error { return s.Create(ctx, "x", "", layer.CreateOptions{}) }, "", ""},
		{"create/renamed", func(s *layer.Store) error { return s.Create(ctx, "x", "", layer.CreateOptions{}) }, "", layer.Fresh},
		{"create/image made", func(s *layer.Store) error { return s.Create(ctx, "x", "", layer.CreateOptions{ReadWrite: true}) }, "", ""},
		{"import into/image made", func(s *layer.Store) error { return importInto(s, "x") }, layer.Fresh, layer.Fresh},
		{"import into/image renamed", func(s *layer.Store) error { return importInto(s, "x") }, layer.Fresh, layer.Fresh},
		{"import into/record written", func(s *layer.Store) error { return importInto(s, "x") }, layer.Fresh, layer.Sealed},
		{"make writable/image renamed", func(s *layer.Store) error {
			_, err := s.MakeWritable(ctx, "x", layer.CreateOptions{})
			return err
		}, layer.Fresh, layer.Fresh},
		{"reset/record written", func(s *layer.Store) error { return s.Reset(ctx, "x") }, layer.Writable, layer.Fresh},
		{"remove/renamed", func(s *layer.Store) error { return s.Remove(ctx, "x") }, layer.Writable, ""},
		{"remove/unlinked", func(s *layer.Store) error { return s.Remove(ctx, "x") }, layer.Writable, ""},
	} {
		t.Run(strings.ReplaceAll(c.step, "/", " "), func(t *testing.T) {
			// The crash is frozen at the step: the tree is copied there and then.
			cfg := config(t)
			frozen := config(t)
			armed, reached := false, false
			cfg.Checkpoint = func(op, id, step string) error {
				if armed && op+"/"+step == c.step {
					reached = true
					return os.CopyFS(frozen.Root, os.DirFS(cfg.Root))
				}
				return nil
			}
			s := open(t, cfg)
			if c.before != "" {
				must(t, s.Create(ctx, "x", "", layer.CreateOptions{ReadWrite: c.before == layer.Writable}))
			}
			armed = true
			must(t, c.run(s))
			if !reached {
				t.Fatalf("step %s was not reached", c.step)
			}

			s = open(t, frozen)
			r, err := s.Get("x")
			switch {
			case c.after == "" && !errors.Is(err, layer.ErrNotFound):
				t.Fatalf("half a layer is found: %+v (%v)", r, err)
			case c.after != "" && (err != nil || r.Kind != c.after):
				t.Fatalf("layer is %q (%v), want %q", r.Kind, err, c.after)
			}
			for _, name := range names(t, frozen.Root) {
				if name != ".lock" && name != "x" {
					t.Errorf("%s is left", name)
				}
			}
			// Whatever is left can be filled or removed.
			if c.after == layer.Fresh {
				if _, err := s.MakeWritable(ctx, "x", layer.CreateOptions{}); err != nil {
					t.Error(err)
				}
			}
			must(t, s.Remove(ctx, "x"))
			if left := names(t, frozen.Root); len(left) != 1 {
				t.Errorf("after removal: %v", left)
			}
		})
	}
}

// TestFailingStep wants an operation that fails at any step to leave nothing of
// itself, without a restart.
func TestFailingStep(t *testing.T) {
	ctx := t.Context()
	broken := errors.New("disk on fire")
	for _, step := range []string{
		"create/directory made", "create/image made", "create/record written", "create/renamed",
	} {
		cfg := config(t)
		cfg.Checkpoint = func(op, _, at string) error {
			if op+"/"+at == step {
				return broken
			}
			return nil
		}
		s := open(t, cfg)
		if err := s.Create(ctx, "x", "", layer.CreateOptions{ReadWrite: true}); !errors.Is(err, broken) {
			t.Errorf("%s: error %v", step, err)
		}
		if s.Exists("x") || len(names(t, cfg.Root)) != 1 {
			t.Errorf("%s: left %v", step, names(t, cfg.Root))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSweepAtStart(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	must(t, s.Create(t.Context(), "stays", "", layer.CreateOptions{}))
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("x"), 0o600))
	for _, dir := range []string{".tmp-a-1", ".tmp-remove-b-2"} {
		must(t, os.Mkdir(filepath.Join(cfg.Root, dir), 0o700))
		must(t, os.WriteFile(filepath.Join(cfg.Root, dir, layer.ImageName), []byte("x"), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(cfg.Root, ".tmp-c-3"), []byte("{"), 0o600))
	must(t, os.Symlink(filepath.Dir(outside), filepath.Join(cfg.Root, ".tmp-link")))
	reopen(t, s, cfg)
	if d := cmp.Diff([]string{".lock", "stays"}, names(t, cfg.Root)); d != "" {
		t.Error(d)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error("the sweep followed a link:", err)
	}
}

func TestOneOwner(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	if _, err := layer.Open(t.Context(), cfg); !errors.Is(err, layer.ErrBusy) {
		t.Errorf("a second owner: %v", err)
	}
	must(t, s.Create(t.Context(), "x", "", layer.CreateOptions{})) // the refused one broke nothing
	s = reopen(t, s, cfg)
	must(t, s.Close(t.Context()))
	must(t, s.Close(t.Context()))
	if err := s.Create(t.Context(), "y", "", layer.CreateOptions{}); !errors.Is(err, layer.ErrClosed) {
		t.Errorf("closed store: %v", err)
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	ctx := t.Context()
	s := open(t, config(t))
	must(t, s.Create(ctx, "base", "", layer.CreateOptions{}))
	opts := layer.CreateOptions{ReadWrite: true, SizeLimit: 1 << 30}
	must(t, s.Create(ctx, "x", "base", opts))
	must(t, s.Create(ctx, "x", "base", opts))
	for _, other := range []struct {
		parent string
		opts   layer.CreateOptions
	}{
		{"", opts}, {"base", layer.CreateOptions{ReadWrite: true}}, {"base", layer.CreateOptions{SizeLimit: 1 << 30}},
	} {
		if err := s.Create(ctx, "x", other.parent, other.opts); !errors.Is(err, layer.ErrExists) {
			t.Errorf("%+v: error %v", other, err)
		}
	}
	if err := s.Create(ctx, "self", "self", layer.CreateOptions{}); err == nil {
		t.Error("a layer is its own parent")
	}
}

func TestRemoveOrder(t *testing.T) {
	ctx := t.Context()
	cfg := config(t)
	s := open(t, cfg)
	must(t, s.Create(ctx, "a", "", layer.CreateOptions{}))
	must(t, s.Create(ctx, "b", "a", layer.CreateOptions{}))
	s = reopen(t, s, cfg) // what is whose child is read from the disk
	must(t, s.Create(ctx, "c", "a", layer.CreateOptions{}))
	for _, child := range []string{"b", "c"} {
		if err := s.Remove(ctx, "a"); !errors.Is(err, layer.ErrInUse) {
			t.Errorf("removed under %s: %v", child, err)
		}
		must(t, s.Remove(ctx, child))
	}
	must(t, s.Remove(ctx, "a"))
	must(t, s.Remove(ctx, "a"))
	if s.Exists("a") {
		t.Error("it still exists")
	}
}

func TestTooDeep(t *testing.T) {
	s := open(t, config(t))
	parent := ""
	for n := range 500 {
		id := fmt.Sprint("l", n)
		must(t, s.Create(t.Context(), id, parent, layer.CreateOptions{}))
		parent = id
	}
	chain, err := s.Chain(parent)
	if err != nil || len(chain) != 500 || chain[0].ID != parent || chain[499].ID != "l0" {
		t.Errorf("chain of %d (%v)", len(chain), err)
	}
	if err := s.Create(t.Context(), "one-more", parent, layer.CreateOptions{}); !errors.Is(err, layer.ErrTooDeep) {
		t.Errorf("error %v", err)
	}
}

// TestCreateAgainstRemove wants a child never to stand on a removed parent.
func TestCreateAgainstRemove(t *testing.T) {
	ctx := t.Context()
	s := open(t, config(t))
	for n := range 50 {
		parent, child := fmt.Sprint("p", n), fmt.Sprint("c", n)
		must(t, s.Create(ctx, parent, "", layer.CreateOptions{}))
		var wg sync.WaitGroup
		var createErr, removeErr error
		wg.Go(func() { createErr = s.Create(ctx, child, parent, layer.CreateOptions{}) })
		wg.Go(func() { removeErr = s.Remove(ctx, parent) })
		wg.Wait()
		if (createErr == nil) == (removeErr == nil) {
			t.Fatalf("create: %v, remove: %v", createErr, removeErr)
		}
		if createErr == nil && !s.Exists(parent) {
			t.Fatal("a child without parent")
		}
	}
}
