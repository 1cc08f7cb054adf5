package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/layer/layertest"
	"layervault/snapshotter/snapshottertest"
)

func TestMain(m *testing.M) {
	dir := layertest.Helper()
	if dir == "" {
		goleak.VerifyTestMain(m)
	}
	fmt.Fprintln(os.Stderr, help(context.Background(), dir)) // it ends by a kill
	os.Exit(1)
}

// TestSuite runs containerd's own suite. Its name says to leave out the renaming of a lower's
// directory, which no overlayfs does without redirect_dir.
func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := snapshottertest.Start(ctx, root, slog.New(slog.DiscardHandler), images)
		if err != nil {
			return nil, nil, err
		}
		return s.Snapshotter, func() error { return errors.Join(s.Stop(), s.Reboot()) }, nil
	})
}

// bench is a snapshotter with a folder of its own.
type bench struct {
	*testing.T
	*snapshottertest.Started
	ctx    context.Context
	dir    string
	images snapshottertest.Images
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchOf(t, images)
}

func newBenchOf(t *testing.T, images snapshottertest.Images) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "snapshotter")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, ctx: context.Background(), dir: dir, images: images}
	b.start()
	t.Cleanup(func() {
		b.ok(b.Stop())
		b.ok(b.Reboot())
		b.eventually("images are open", func() bool { return len(b.open()) == 0 })
		b.ok(os.RemoveAll(dir))
	})
	return b
}

func (b *bench) start() {
	b.Helper()
	var err error
	b.Started, err = snapshottertest.Start(b.ctx, b.dir, slog.New(slog.NewTextHandler(b.Output(), nil)), b.images)
	b.ok(err)
}

// restart is a new process.
func (b *bench) restart() {
	b.Helper()
	b.ok(b.Stop())
	b.start()
}

// reboot is a new process of a new boot.
func (b *bench) reboot() {
	b.Helper()
	b.ok(b.Stop())
	b.ok(b.Reboot())
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

// eventually waits for what the kernel, or this package, does behind an answer.
func (b *bench) eventually(not string, is func() bool) {
	b.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("still: %s", not)
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
	m, err := b.Prepare(b.ctx, key, parent, withLabels(labels...))
	b.ok(err)
	return m
}

// withLabels makes an option of names and values.
func withLabels(labels ...string) snapshots.Opt {
	all := make(map[string]string)
	for pair := range slices.Chunk(labels, 2) {
		all[pair[0]] = pair[1]
	}
	return snapshots.WithLabels(all)
}

// commit makes a committed snapshot with one file, which has and holds the snapshot's name.
func (b *bench) commit(name, parent string) {
	b.Helper()
	b.at(b.prepare("of "+name, parent), func(dir string) { b.write(filepath.Join(dir, name), name) })
	b.ok(b.Commit(b.ctx, name, "of "+name))
}

func (b *bench) write(path, content string) {
	b.Helper()
	b.ok(os.WriteFile(path, []byte(content), 0o644))
}

// shows fails the test unless the mount shows these files at its root.
func (b *bench) shows(m []mount.Mount, want string) {
	b.Helper()
	b.at(m, func(dir string) {
		entries, err := os.ReadDir(dir)
		b.ok(err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			b.Errorf("mount shows %q, not %q", got, want)
		}
	})
}

// layerOf finds the layer of a snapshot by its record.
func (b *bench) layerOf(name string) layer.Record {
	b.Helper()
	all, err := b.Store.List(b.ctx)
	b.ok(err)
	i := slices.IndexFunc(all, func(r layer.Record) bool { return r.Name == name })
	if i < 0 {
		b.Fatalf("no layer is named %q", name)
	}
	return all[i]
}

func (b *bench) attached() []string {
	b.Helper()
	ids, err := b.Attached()
	b.ok(err)
	return ids
}
