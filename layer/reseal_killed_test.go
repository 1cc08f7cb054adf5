package layer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"layervault/layer"
)

// resealChildEnv holds the folder of the store that a child of TestResealKilled works on.
const resealChildEnv = "LAYERVAULT_TEST_RESEAL"

// TestResealChild is what TestResealKilled starts; by itself it has nothing to do.
func TestResealChild(t *testing.T) {
	dir := os.Getenv(resealChildEnv)
	if dir == "" {
		return
	}
	s := open(t, imageConfig(t, dir))
	ids, err := s.IDs()
	must(t, err)
	for _, id := range ids {
		if r := record(t, s, id); r.Kind == layer.Sealed || r.State == layer.Committed {
			_, err := s.Reseal(t.Context(), id)
			must(t, err)
		}
	}
}

// resealKills is how often TestResealKilled kills; KILLS in the environment says another number.
const resealKills = 20

// TestResealKilled kills processes that seal the layers of a store anew, at random moments, each
// store until one process comes to its end. After each kill the store opens, each chain is whole,
// nothing is left over, and each layer shows what it did; a file that was opened before the first
// kill stays readable.
func TestResealKilled(t *testing.T) {
	kills := resealKills
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		must(t, err)
	}
	frozen := t.TempDir()
	before := storeToReseal(t, frozen)
	began := time.Now()
	if whole := copyStore(t, frozen); killReseal(t, whole, 0) {
		t.Fatal("killed without being told to")
	}
	lasts := time.Since(began)
	rng := rand.New(rand.NewPCG(2026, 11))
	killed, halfway, ended := 0, 0, 0
	for killed < kills {
		dir := copyStore(t, frozen)
		held, release := holdOld(t, dir)
		for {
			died := killReseal(t, dir, 1+time.Duration(rng.Int64N(int64(lasts))))
			done := checkKilled(t, dir, before, fmt.Sprintf("after %d kills", killed))
			var b [16]byte
			if _, err := held.ReadAt(b[:], 16<<10); err != nil || string(b[:]) != "0123456789abcdef" {
				t.Fatalf("an open file of the old image: %q, %v", b, err)
			}
			if !died {
				if ended++; done != len(before) {
					t.Fatalf("came to its end with %d of %d layers of the present form", done, len(before))
				}
				break
			}
			if killed++; done > 0 && done < len(before) {
				halfway++
			}
		}
		release()
		must(t, os.RemoveAll(dir))
		t.Logf("%d of %d kills", killed, kills)
	}
	t.Logf("%d kills within %s, %d of them between two layers; %d stores came to their end", killed, lasts, halfway, ended)
	if halfway == 0 {
		t.Error("no kill came in the middle")
	}
}

// storeToReseal makes a store of older layers, and says what those show.
func storeToReseal(t *testing.T, dir string) map[string][]string {
	ctx := t.Context()
	s := open(t, imageConfig(t, dir))
	shows, parent := map[string][]string{}, ""
	for n := range 4 {
		id := fmt.Sprint("sealed", n)
		addOld(t, s, id, parent)
		parent, shows[id] = id, shown(t, s, id)
	}
	opts := layer.CreateOptions{ReadWrite: true, DefaultSize: 128 << 20, Name: "n", State: layer.Active}
	must(t, s.Create(ctx, "committed", "", opts))
	fillWritable(t, s, "committed")
	must(t, s.Commit(ctx, "committed", "n2", ""))
	shows["committed"] = shown(t, s, "committed")
	opts.Name = "n3"
	must(t, s.Create(ctx, "on-committed", "committed", opts))
	must(t, s.Create(ctx, "top", parent, layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20}))
	must(t, s.Close(ctx))
	return shows
}

func copyStore(t *testing.T, from string) string {
	to := t.TempDir()
	must(t, exec.CommandContext(t.Context(), "cp", "-a", "--sparse=always", from+"/layers", to).Run())
	return to
}

// killReseal works on the store in a child, which is killed after a while; 0 for not at all.
func killReseal(t *testing.T, dir string, after time.Duration) (died bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestResealChild$")
	cmd.Env = append(os.Environ(), resealChildEnv+"="+dir)
	if after == 0 {
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return false
	}
	must(t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // of one that ended: no harm
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return true
	}
	t.Fatal(err)
	return false
}

// holdOld opens a file of an image as a container does whose process lives on.
func holdOld(t *testing.T, dir string) (f *os.File, release func()) {
	at := t.TempDir()
	image := filepath.Join(dir, "layers", "sealed0", layer.ImageName)
	must(t, exec.CommandContext(t.Context(), "mount", "-t", "ext4", "-o", "ro,loop,offset=1048576", image, at).Run())
	f, err := os.Open(filepath.Join(at, "diff", "large"))
	must(t, err)
	return f, func() { must(t, errors.Join(f.Close(), unix.Unmount(at, 0))) }
}

// checkKilled wants everything to be whole, and says how many layers have the present form.
func checkKilled(t *testing.T, dir string, shows map[string][]string, when string) (done int) {
	t.Helper()
	cfg := imageConfig(t, dir)
	s, err := layer.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer func() { must(t, s.Close(context.Background())) }()
	for id, want := range map[string]int{"top": 5, "on-committed": 2} {
		if chain, err := s.Chain(id); err != nil || len(chain) != want {
			t.Fatalf("%s: chain of %s: %d, %v", when, id, len(chain), err)
		}
	}
	for id, want := range shows {
		if d := cmp.Diff(want, shown(t, s, id)); d != "" {
			t.Fatalf("%s: %s: %s", when, id, d)
		}
		if fileSystem(t, s, id) == unix.EROFS_SUPER_MAGIC_V1 {
			done++
		}
	}
	// The old image of the layer that is held may wait for its last user.
	left, err := s.EraseReplaced(t.Context())
	if err != nil || left > 1 {
		t.Fatalf("%s: %d replaced images are left, %v", when, left, err)
	}
	if stray, err := filepath.Glob(filepath.Join(cfg.Root, ".tmp-*")); err != nil || len(stray) != left {
		t.Fatalf("%s: left %v, %v", when, stray, err)
	}
	return done
}
