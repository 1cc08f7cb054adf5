package snapshotter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/layer/layertest"
	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
)

// killWorkers is how many images the helper works on at once.
const killWorkers = 3

// killText is in each file that the helper writes.
var killText = strings.Repeat("body", 50000)

// TestKilled kills a process in each call, at each step, and at whatever moment (KILLS more
// times). Each time the next process must find every snapshot whole, or half made and removable,
// and remove everything.
func TestKilled(t *testing.T) {
	kills := layertest.Kills(
		"create/directory made", "create/image made", "create/record written", "create/renamed",
		"import into/image made", "import into/image renamed", "import into/record written",
		"make writable/image made", "make writable/image renamed", "make writable/record written",
		"reset/record written", "commit/record written", "remove/renamed", "remove/unlinked",
	)
	if text := os.Getenv("KILLS"); text != "" {
		more, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		for range more {
			kills = append(kills, layertest.Kills()[rand.IntN(3)])
		}
	}
	for _, kill := range kills {
		t.Run(kill, func(t *testing.T) {
			b := newBench(t)
			b.commit("done", "")
			b.ok(b.Stop())
			layertest.KillHelper(t, b.dir, kill, nil)
			b.start()
			m, err := b.View(b.ctx, "check", "done")
			b.ok(err)
			b.shows(m, "done")
			b.ok(b.Remove(b.ctx, "check"))
			b.checkWhole()
			b.removeAll()
		})
	}
}

// help makes and removes snapshots below dir until the process is killed.
func help(ctx context.Context, dir string) error {
	s, err := snapshottertest.Start(ctx, dir, slog.New(slog.DiscardHandler), func(cfg *layer.Config) {
		images(cfg)
		cfg.Checkpoint = layertest.HelperCheckpoint
	})
	if err != nil {
		return err
	}
	blobs, err := snapshottertest.Blobs(dir)
	if err != nil {
		return err
	}
	tar, err := snapshottertest.FileTar("file", killText)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(tar), Size: int64(len(tar))}
	if err := content.WriteBlob(ctx, blobs, "blob", bytes.NewReader(tar), desc); err != nil {
		return err
	}
	h := &helper{s.Snapshotter, snapshotter.NewDiffer(s.Snapshotter, blobs), desc}
	g, ctx := errgroup.WithContext(ctx)
	for n := range killWorkers {
		g.Go(func() error {
			at := filepath.Join(dir, fmt.Sprint("work", n))
			if err := os.MkdirAll(at, 0o700); err != nil {
				return err
			}
			for round := 0; ; round++ {
				if err := h.round(ctx, fmt.Sprintf("%d-%d-%d", os.Getpid(), n, round), at); err != nil {
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

// helper works on a snapshotter.
type helper struct {
	*snapshotter.Snapshotter
	*snapshotter.Differ
	blob ocispec.Descriptor
}

// round makes every call: it unpacks an image of two layers, runs a container on it and commits
// that, and removes everything.
func (h *helper) round(ctx context.Context, id, at string) error {
	low, top, image := id+"-low", id+"-top", id+"-image"
	if err := h.unpack(ctx, low, ""); err != nil {
		return err
	}
	if err := h.unpack(ctx, top, low); err != nil {
		return err
	}
	// Unpacked by another differ, and given up.
	other := id + "-other"
	if _, err := h.Prepare(ctx, other, top, withLabels(labelChain, other)); err != nil {
		return err
	}
	if _, err := h.Mounts(ctx, other); err != nil {
		return err
	}
	m, err := h.Prepare(ctx, id, top)
	if err != nil {
		return err
	}
	if err := mount.All(m, at); err != nil {
		return err
	}
	// Detached: a child of another worker may have the file open until it runs its program.
	if err := errors.Join(os.WriteFile(filepath.Join(at, "file"), []byte(killText), 0o600), unix.Unmount(at, unix.MNT_DETACH)); err != nil {
		return err
	}
	if _, err := h.Usage(ctx, id); err != nil {
		return err
	}
	info := snapshots.Info{Name: id, Labels: map[string]string{"containerd.io/gc.root": "x"}}
	if _, err := h.Update(ctx, info, "labels"); err != nil {
		return err
	}
	if err := h.Commit(ctx, image, id); err != nil {
		return err
	}
	if _, err := h.View(ctx, id+"-view", image); err != nil {
		return err
	}
	for _, name := range []string{id + "-view", other, image, top, low} {
		if err := h.Remove(ctx, name); err != nil {
			return err
		}
	}
	return h.Cleanup(ctx)
}

// unpack unpacks one layer by our differ.
func (h *helper) unpack(ctx context.Context, name, parent string) error {
	m, err := h.Prepare(ctx, "extract "+name, parent, withLabels(labelChain, name))
	if err != nil {
		return err
	}
	if _, err := h.Apply(ctx, h.blob, m); err != nil {
		return err
	}
	return h.Commit(ctx, name, "extract "+name)
}

func (b *bench) infos() (all []snapshots.Info) {
	b.Helper()
	b.ok(b.Walk(b.ctx, func(_ context.Context, info snapshots.Info) error {
		all = append(all, info)
		return nil
	}))
	return all
}

// checkWhole wants every snapshot to be whole, or to be what a crash may leave.
func (b *bench) checkWhole() {
	b.Helper()
	for _, info := range b.infos() {
		m, err := b.Mounts(b.ctx, info.Name)
		key := info.Name
		if info.Kind == snapshots.KindCommitted {
			key = info.Name + "-check"
			m, err = b.View(b.ctx, key, info.Name)
		}
		if errors.Is(err, snapshotter.ErrLost) || errors.Is(err, snapshotter.ErrUnfinished) {
			if info.Kind == snapshots.KindCommitted {
				b.Errorf("%s: %v", info.Name, err)
			}
			continue
		}
		b.ok(err)
		b.at(m, func(dir string) {
			text, err := os.ReadFile(filepath.Join(dir, "file"))
			if info.Name != "done" && info.Kind == snapshots.KindCommitted && (err != nil || string(text) != killText) {
				b.Errorf("%s is committed, and its file has %d bytes (%v)", info.Name, len(text), err)
			}
		})
		if key != info.Name {
			b.ok(b.Remove(b.ctx, key))
		}
	}
}

// removeAll removes every snapshot, and wants no layer to be left.
func (b *bench) removeAll() {
	b.Helper()
	for all := b.infos(); len(all) > 0; all = b.infos() {
		before := len(all)
		for _, info := range slices.Backward(all) {
			if err := b.Remove(b.ctx, info.Name); err != nil && !errdefs.IsFailedPrecondition(err) {
				b.Fatal(err)
			}
		}
		if len(b.infos()) == before {
			b.Fatalf("cannot remove any of %d snapshots", before)
		}
	}
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	if ids, err := b.Store.IDs(); err != nil || len(ids) != 0 {
		b.Errorf("layers left: %v, %v", ids, err)
	}
}
