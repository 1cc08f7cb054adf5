package layer_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/sys/user"

	"layervault/crypt"
	"layervault/layer"
)

// kernel stands for what the kernel has seen of open images.
type kernel struct {
	mu    sync.Mutex
	uuids []string
	err   error
	asked int
}

func (k *kernel) corrupted() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	return k.uuids, k.err
}

func (k *kernel) set(err error, uuids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uuids, k.err = uuids, err
}

// lines is a log that counts.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

func watched(t *testing.T, k *kernel) (*layer.Store, *lines) {
	t.Helper()
	cfg, log := config(t), &lines{}
	cfg.Scratch, cfg.Corrupted, cfg.Log = "", k.corrupted, slog.New(slog.NewTextHandler(log, nil))
	return open(t, cfg), log
}

func sealedLayer(t *testing.T, s *layer.Store, id string) {
	t.Helper()
	must(t, s.Create(t.Context(), id, "", layer.CreateOptions{}))
	_, err := s.Import(t.Context(), id, bytes.NewReader(emptyTar), user.IdentityMapping{})
	must(t, err)
}

// A layer in whose image the kernel has seen a changed block is named, in the log once. It stays
// named when its image is closed, until it is removed.
func TestChanged(t *testing.T) {
	k := &kernel{}
	s, log := watched(t, k)
	sealedLayer(t, s, "a")
	sealedLayer(t, s, "b")
	want := func(when string, want ...string) {
		t.Helper()
		if got := s.Changed(t.Context()); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	want("nothing")
	k.set(nil, "uuid-of-b", "uuid-of-nobody")
	want("b", "b")
	want("b again", "b")
	k.set(nil)
	want("b, closed", "b")
	k.set(nil, "uuid-of-a", "uuid-of-b")
	want("both", "a", "b")
	for _, word := range []string{"layer=a uuid=uuid-of-a", "layer=b uuid=uuid-of-b", "uuid=uuid-of-nobody"} {
		if n := log.count("level=ERROR", word, crypt.ErrCorrupt.Error()); n != 1 {
			t.Errorf("%d lines with %s", n, word)
		}
	}
	must(t, s.Remove(t.Context(), "b"))
	want("b removed", "a")

	k.set(io.ErrNoProgress)
	want("kernel not asked", "a")
	want("kernel not asked", "a")
	if n := log.count("level=WARN", io.ErrNoProgress.Error()); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// The kernel is asked now and then, while the store is open.
func TestChangedIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{}
		s, log := watched(t, k)
		sealedLayer(t, s, "a")
		synctest.Wait()
		k.set(nil, "uuid-of-a")
		time.Sleep(time.Minute) // of the bubble
		synctest.Wait()
		if n := log.count("level=ERROR", "layer=a"); n != 1 {
			t.Errorf("%d lines", n)
		}
		must(t, s.Close(t.Context()))
		asked := k.asked
		time.Sleep(time.Minute)
		if k.asked != asked || asked < 2 {
			t.Errorf("asked %d times before the end, %d in all", asked, k.asked)
		}
	})
}

// What is no sealed layer with an authentic record and its own image is refused before the image is
// opened.
func TestVerifyRefuses(t *testing.T) {
	d := newDisk(t)
	d.edit("other", false, func(r *layer.Record) { r.Kind, r.Size = layer.Writable, 0 })
	r, err := layer.OpenReader(d.cfg.Root)
	must(t, err)
	defer func() { must(t, r.Close()) }()
	for id, want := range map[string]error{
		"container": layer.ErrState, "other": layer.ErrForged, "missing": layer.ErrNotFound, "../x": layer.ErrBadID,
	} {
		if _, err := r.Verify(t.Context(), id, d.cfg.Keys, nil, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
}
