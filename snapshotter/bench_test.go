package snapshotter_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/mountinfo"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
	"layervault/layer"
	"layervault/snapshotter"
)

func TestMain(m *testing.M) {
	// containerd's log looks once at the terminal; the metadata's package has no other goroutines.
	goleak.VerifyTestMain(m)
}

// testSize is what writable layers get: small, so that a test can fill one.
const testSize = 64 << 20

// start opens a store and a snapshotter on it below dir. stop closes both, as the end of the
// process does.
func start(ctx context.Context, dir string, log *slog.Logger) (*snapshotter.Snapshotter, *layer.Store, func() error, error) {
	cfg := layer.Config{Root: filepath.Join(dir, "layers"), Scratch: filepath.Join(dir, "scratch"), Log: log}
	images(&cfg)
	store, err := layer.Open(ctx, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := snapshotter.New(ctx, snapshotter.Config{
		Dir: filepath.Join(dir, "snapshots"), Mounts: filepath.Join(dir, "m"), Layers: store,
		DefaultSize: testSize, Linger: time.Second, Log: log,
	})
	if err != nil {
		return nil, nil, nil, errors.Join(err, store.Close(context.WithoutCancel(ctx)))
	}
	return s, store, func() error { return errors.Join(s.Close(), store.Close(context.WithoutCancel(ctx))) }, nil
}

// reboot detaches everything below dir, as a reboot does.
func reboot(dir string) error {
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return strings.HasPrefix(m.Mountpoint, dir+"/") })
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range mounts.Points(infos) {
		errs = append(errs, mounts.DetachAll(at))
	}
	return errors.Join(errs...)
}

// bench is a snapshotter with a folder of its own.
type bench struct {
	*testing.T
	*snapshotter.Snapshotter
	ctx   context.Context
	dir   string
	store *layer.Store
	stop  func() error
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "snapshotter")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, ctx: t.Context(), dir: dir}
	b.start()
	t.Cleanup(func() {
		b.ok(b.stop())
		b.ok(reboot(dir))
		b.noLeaks()
		b.ok(os.RemoveAll(dir))
	})
	return b
}

func (b *bench) start() {
	b.Helper()
	var err error
	b.Snapshotter, b.store, b.stop, err = start(b.ctx, b.dir, slog.New(slog.NewTextHandler(b.Output(), nil)))
	b.ok(err)
}

// restart is a new process.
func (b *bench) restart() {
	b.Helper()
	b.ok(b.stop())
	b.start()
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) wants(err, target error) {
	b.Helper()
	if !errors.Is(err, target) {
		b.Errorf("error %v is not %v", err, target)
	}
}

// noLeaks waits for the kernel, which closes devices some time after their last user.
func (b *bench) noLeaks() {
	b.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := b.open()
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			b.Errorf("still open: %v", left)
			return
		}
	}
}

// open lists the images that a loop device has open.
func (b *bench) open() (open []string) {
	b.Helper()
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	b.ok(err)
	for _, f := range backing {
		if name, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(name), b.dir+"/") {
			open = append(open, strings.TrimSpace(string(name)))
		}
	}
	return open
}

// at mounts what was handed out, as another process does, and runs f there.
func (b *bench) at(m []mount.Mount, f func(dir string)) {
	b.Helper()
	dir := b.TempDir()
	b.ok(mount.All(m, dir))
	defer func() { b.ok(unix.Unmount(dir, 0)) }()
	f(dir)
}

func (b *bench) prepare(key, parent string, labels ...string) []mount.Mount {
	b.Helper()
	opts := make(map[string]string)
	for i := 0; i < len(labels); i += 2 {
		opts[labels[i]] = labels[i+1]
	}
	m, err := b.Prepare(b.ctx, key, parent, snapshots.WithLabels(opts))
	b.ok(err)
	return m
}

// commit makes a committed snapshot with one file, which holds the snapshot's name.
func (b *bench) commit(name, parent string) {
	b.Helper()
	b.at(b.prepare("of "+name, parent), func(dir string) { b.write(filepath.Join(dir, name), name) })
	b.ok(b.Commit(b.ctx, name, "of "+name))
}

func (b *bench) write(path, content string) {
	b.Helper()
	b.ok(os.WriteFile(path, []byte(content), 0o644))
}

// names lists a directory.
func (b *bench) names(dir string) string {
	b.Helper()
	entries, err := os.ReadDir(dir)
	b.ok(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// attached lists the layers whose images are attached.
func (b *bench) attached() (ids []string) {
	b.Helper()
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return filepath.Dir(m.Mountpoint) == filepath.Join(b.dir, "m") })
	b.ok(err)
	for _, at := range mounts.Points(infos) {
		ids = append(ids, filepath.Base(at))
	}
	return ids
}
