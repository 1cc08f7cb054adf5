package snapshotter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
)

// killDir names the folder in which a process of this test works until it is killed.
const killDir = "SNAPSHOTTER_KILL_DIR"

// TestKilled kills a process at work again and again (KILLS times), and wants each time that the
// next one finds every snapshot whole, or half made and removable, and can remove everything.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(killDir); dir != "" {
		work(t, dir)
		return
	}
	kills := 6
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t)
	b.ok(b.Stop())
	for n := range kills {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
		cmd.Env = append(os.Environ(), killDir+"="+b.dir)
		var out bytes.Buffer
		cmd.Stdout = &out
		b.ok(cmd.Start())
		b.eventually("the process does not work", func() bool {
			_, err := os.Stat(filepath.Join(b.dir, "at-work"))
			return err == nil
		})
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		b.ok(cmd.Process.Kill())
		_ = cmd.Wait() // what it says is in the state
		if how, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !how.Signaled() {
			b.Fatalf("the process ended by itself: %s: %s", cmd.ProcessState, out.String())
		}
		b.ok(os.Remove(filepath.Join(b.dir, "at-work")))
		b.start()
		b.checkWhole()
		if n%2 == 1 {
			b.removeAll()
		}
		b.ok(b.Stop())
	}
	b.start()
	b.removeAll()
}

// work makes and removes snapshots until the process is killed.
func work(t *testing.T, dir string) {
	ctx := context.Background()
	s, err := snapshottertest.Start(ctx, dir, slog.New(slog.DiscardHandler), images)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "work")
	if err := errors.Join(os.MkdirAll(at, 0o700), os.WriteFile(filepath.Join(dir, "at-work"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	parent := ""
	for n := 0; ; n++ {
		key := fmt.Sprintf("%d-%d", os.Getpid(), n)
		m, err := s.Prepare(ctx, key, parent)
		if err == nil {
			err = mount.All(m, at)
		}
		if err == nil {
			err = errors.Join(os.WriteFile(filepath.Join(at, key), nil, 0o600), unix.Unmount(at, 0))
		}
		if err == nil {
			err = s.Commit(ctx, key+"-done", key)
		}
		if err == nil {
			_, err = s.View(ctx, key+"-view", key+"-done")
		}
		if err == nil && n%3 == 2 {
			err = errors.Join(s.Remove(ctx, key+"-view"), s.Remove(ctx, key+"-done"))
		} else {
			parent = key + "-done"
		}
		if err != nil {
			t.Fatal(err)
		}
	}
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
			_, err := os.ReadDir(dir)
			b.ok(err)
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
