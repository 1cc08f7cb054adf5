package snapshot_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"layervault/plugin/snapshot"
	"layervault/plugin/socket"
	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is a door that is served on a socket, and a client of it, as containerd is one.
type served struct {
	snapshots.Snapshotter
	differ interface {
		diff.Applier
		diff.Comparer
	}
	door *snapshot.Server
	stop func() error
}

// serve opens a door on a socket below dir.
func serve(ctx context.Context, dir string, cfg snapshot.Config) (*served, error) {
	path := filepath.Join(dir, "s.sock")
	l, err := socket.Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	door := snapshot.New(running, cfg)
	done := make(chan error, 1)
	go func() { done <- door.Serve(running, l, 10*time.Second, snapshot.Snapshots|snapshot.Diffs) }()
	conn, err := dial(path)
	if err != nil {
		end()
		return nil, errors.Join(err, <-done)
	}
	return &served{
		Snapshotter: proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "layervault"),
		differ: diffproxy.NewDiffApplier(diffapi.NewDiffClient(conn)).(interface {
			diff.Applier
			diff.Comparer
		}),
		door: door,
		stop: func() error {
			end()
			return errors.Join(<-done, conn.Close())
		},
	}, nil
}

func dial(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// behind opens a snapshotter below dir, with a differ that reads blobs from a store, nil for none.
func behind(dir string, blobs content.Store, started *atomic.Pointer[snapshottertest.Started]) func(context.Context) (*snapshot.Backend, error) {
	return behindOf(dir, blobs, started, images)
}

func behindOf(dir string, blobs content.Store, started *atomic.Pointer[snapshottertest.Started], images snapshottertest.Images) func(context.Context) (*snapshot.Backend, error) {
	return func(ctx context.Context) (*snapshot.Backend, error) {
		s, err := snapshottertest.Start(ctx, dir, slog.New(slog.DiscardHandler), images)
		if err != nil {
			return nil, err
		}
		started.Store(s)
		return &snapshot.Backend{Snapshotter: s.Snapshotter, Differ: snapshotter.NewDiffer(s.Snapshotter, blobs)}, nil
	}
}

// TestSuite runs containerd's own suite through the socket.
func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		var started atomic.Pointer[snapshottertest.Started]
		s, err := serve(ctx, root, snapshot.Config{Open: behind(root, nil, &started)})
		if err != nil {
			return nil, nil, err
		}
		return s, func() error {
			err := s.stop()
			if back := started.Load(); back != nil {
				err = errors.Join(err, back.Stop(), back.Reboot())
			}
			return err
		}, nil
	})
}

func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "snapshot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errNoKey = errors.New("PCR 7 has changed")

// A locked vault answers every call at once with the reason and the command, and serves as soon
// as it opens.
func TestLocked(t *testing.T) {
	ctx, dir := t.Context(), folder(t)
	var started atomic.Pointer[snapshottertest.Started]
	open := behind(dir, nil, &started)
	var locked atomic.Bool
	locked.Store(true)
	s, err := serve(ctx, dir, snapshot.Config{
		Open: func(ctx context.Context) (*snapshot.Backend, error) {
			if locked.Load() {
				return nil, errNoKey
			}
			return open(ctx)
		},
		NextStep: func(err error) string {
			if errors.Is(err, errNoKey) {
				return "layervault key recover"
			}
			return ""
		},
	})
	must(t, err)
	calls := map[string]func() error{
		"stat":    func() error { _, err := s.Stat(ctx, "key"); return err },
		"prepare": func() error { _, err := s.Prepare(ctx, "key", ""); return err },
		"mounts":  func() error { _, err := s.Mounts(ctx, "key"); return err },
		"usage":   func() error { _, err := s.Usage(ctx, "key"); return err },
		"commit":  func() error { return s.Commit(ctx, "name", "key") },
		"remove":  func() error { return s.Remove(ctx, "key") },
		"walk":    func() error { return s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }) },
		"cleanup": func() error { return s.Snapshotter.(snapshots.Cleaner).Cleanup(ctx) },
		"apply":   func() error { _, err := s.differ.Apply(ctx, ocispec.Descriptor{}, nil); return err },
	}
	for name, call := range calls {
		err := call()
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), errNoKey.Error()) || !strings.Contains(err.Error(), "next: layervault key recover") {
			t.Errorf("%s: %v", name, err)
		}
	}
	locked.Store(false)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := calls["walk"](); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("still locked: %v", err)
		}
	}
	if _, err := s.Prepare(ctx, "key", ""); err != nil {
		t.Error(err)
	}
	must(t, errors.Join(s.stop(), started.Load().Stop(), started.Load().Reboot()))
}

// A second service for the same vault says why it cannot serve, and serves when the first one ends.
func TestTwoServices(t *testing.T) {
	ctx, dir := t.Context(), folder(t)
	var one, two atomic.Pointer[snapshottertest.Started]
	first, err := serve(ctx, dir, snapshot.Config{Open: behind(dir, nil, &one)})
	must(t, err)
	_, err = first.Prepare(ctx, "key", "")
	must(t, err)
	second, err := serve(ctx, folder(t), snapshot.Config{Open: behind(dir, nil, &two)})
	must(t, err)
	if _, err := second.Stat(ctx, "key"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another layervault") {
		t.Errorf("the second service: %v", err)
	}
	if _, err := first.Prepare(ctx, "key two", ""); err != nil {
		t.Errorf("the first service: %v", err)
	}
	must(t, errors.Join(first.stop(), one.Load().Stop()))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = second.Mounts(ctx, "key"); err == nil || time.Now().After(end) {
			break
		}
	}
	must(t, err)
	must(t, errors.Join(second.stop(), two.Load().Stop(), two.Load().Reboot()))
}

// panicking is a snapshotter with a fault, and one call that lasts.
type panicking struct {
	snapshot.Snapshotter
	begun, end chan struct{}
}

func (panicking) Stat(context.Context, string) (snapshots.Info, error) { panic("a fault") }

func (p panicking) Remove(context.Context, string) error {
	close(p.begun)
	<-p.end
	return nil
}

func (panicking) Walk(context.Context, snapshots.WalkFunc, ...string) error { panic("a fault") }

// A fault in one call is its error; a stopping server finishes what it began and begins nothing.
func TestFaultsAndDrain(t *testing.T) {
	ctx, dir := t.Context(), folder(t)
	p := panicking{begun: make(chan struct{}), end: make(chan struct{})}
	s, err := serve(ctx, dir, snapshot.Config{Open: func(context.Context) (*snapshot.Backend, error) { return &snapshot.Backend{Snapshotter: p}, nil }})
	must(t, err)
	for range 2 {
		if _, err := s.Stat(ctx, "key"); err == nil || !strings.Contains(err.Error(), "a fault") {
			t.Errorf("stat: %v", err)
		}
		if err := s.Walk(ctx, nil); err == nil || !strings.Contains(err.Error(), "a fault") {
			t.Errorf("walk: %v", err)
		}
	}
	removed := make(chan error, 1)
	go func() { removed <- s.Remove(ctx, "key") }()
	<-p.begun
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := s.Stat(ctx, "key"); errdefs.IsUnavailable(err) {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	close(p.end)
	if err := errors.Join(<-removed, <-stopped); err != nil {
		t.Error(err)
	}
}

// The differ reads blobs through containerd's content service, in the namespace of the request.
func TestContent(t *testing.T) {
	dir := folder(t)
	ctx := namespaces.WithNamespace(t.Context(), "there")
	blobs, err := snapshottertest.Blobs(dir)
	must(t, err)
	namespace := make(chan string, 100)
	containerd := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		name, _ := namespaces.Namespace(ss.Context())
		namespace <- name
		return handler(srv, ss)
	}))
	contentapi.RegisterContentServer(containerd, contentserver.New(blobs))
	l, err := net.Listen("unix", filepath.Join(dir, "containerd.sock"))
	must(t, err)
	go func() { _ = containerd.Serve(l) }()
	defer containerd.Stop()
	store, err := snapshot.NewContent(filepath.Join(dir, "containerd.sock"))
	must(t, err)
	defer store.Close()

	tar := make([]byte, 3<<20) // an empty archive, in several messages
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(tar), Size: int64(len(tar))}
	must(t, content.WriteBlob(ctx, blobs, "ref", strings.NewReader(string(tar)), desc))
	var started atomic.Pointer[snapshottertest.Started]
	s, err := serve(ctx, dir, snapshot.Config{Open: behind(dir, store, &started)})
	must(t, err)
	m, err := s.Prepare(ctx, "key", "")
	must(t, err)
	got, err := s.differ.Apply(ctx, desc, m)
	if err != nil || got.Digest != desc.Digest || got.Size != desc.Size {
		t.Errorf("%+v, %v", got, err)
	}
	if name := <-namespace; name != "there" {
		t.Errorf("blob was asked for in namespace %q", name)
	}
	nothing, err := s.View(ctx, "nothing", "")
	must(t, err)
	must(t, s.Commit(ctx, "name", "key"))
	view, err := s.View(ctx, "view", "name")
	must(t, err)
	out, err := s.differ.Compare(leases.WithLease(ctx, "theirs"), nothing, view, diff.WithMediaType(ocispec.MediaTypeImageLayerGzip))
	must(t, err)
	if info, err := blobs.Info(ctx, out.Digest); err != nil || info.Size != out.Size {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := s.differ.Apply(ctx, desc, []mount.Mount{{Type: "bind", Source: "/tmp"}}); !errdefs.IsNotImplemented(err) {
		t.Errorf("mounts of others: %v", err)
	}
	must(t, errors.Join(s.stop(), started.Load().Stop(), started.Load().Reboot()))
}
