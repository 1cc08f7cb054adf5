package flock_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"layervault/internal/flock"
)

// open opens the lock file of a test once more; each open file is a holder of its own.
func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTryLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	a, b, c := open(t, name), open(t, name), open(t, name)
	must(t, flock.TryLock(a, flock.Shared))
	must(t, flock.TryLock(b, flock.Shared))
	err := flock.TryLock(c, flock.Exclusive)
	if !errors.Is(err, flock.ErrHeld) || !strings.Contains(err.Error(), name) {
		t.Errorf("exclusive beside two shared: %v", err)
	}
	must(t, a.Close())
	must(t, b.Close())
	must(t, flock.TryLock(c, flock.Exclusive)) // closing is unlocking
	if err := flock.TryLock(open(t, name), flock.Shared); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("shared beside an exclusive: %v", err)
	}
	must(t, c.Close())
	if err := flock.TryLock(c, flock.Exclusive); err == nil || errors.Is(err, flock.ErrHeld) {
		t.Errorf("a closed file: %v", err)
	}
}

// Of many that lock one file, each is alone.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	for what, lock := range map[string]func(context.Context, *os.File) error{
		"file": func(ctx context.Context, f *os.File) error { return flock.Lock(ctx, f, flock.Exclusive) },
		"byte": func(ctx context.Context, f *os.File) error { return flock.LockByte(ctx, f, flock.Exclusive, 7) },
	} {
		t.Run(what, func(t *testing.T) {
			var inside, count int
			var mu sync.Mutex // for the race detector, which does not know the kernel's locks
			add := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				inside += n
				count++
				return inside
			}
			var wg sync.WaitGroup
			for range 16 {
				f := open(t, filepath.Join(dir, what))
				wg.Go(func() {
					if err := lock(t.Context(), f); err != nil {
						t.Error(err)
						return
					}
					if n := add(1); n != 1 {
						t.Errorf("%d holders", n)
					}
					add(-1)
					_ = f.Close()
				})
			}
			wg.Wait()
			if count != 32 {
				t.Errorf("%d of 32 steps", count)
			}
		})
	}
}

// A wait ends with its context, and says so.
func TestLockGivesUp(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	must(t, flock.Lock(t.Context(), open(t, name), flock.Exclusive))
	must(t, flock.LockByte(t.Context(), open(t, name), flock.Exclusive, 1))
	f := open(t, name)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	for what, err := range map[string]error{
		"file": flock.Lock(ctx, f, flock.Shared),
		"byte": flock.LockByte(ctx, f, flock.Shared, 1),
	} {
		if !errors.Is(err, flock.ErrHeld) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, flock.LockByte(ctx, f, flock.Exclusive, 2)) // free: the ended context does not matter
}

func TestLockByteShared(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	_ = open(t, name)
	for range 2 {
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		must(t, flock.LockByte(t.Context(), f, flock.Shared, 3))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := flock.LockByte(ctx, open(t, name), flock.Exclusive, 3); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("exclusive beside shared: %v", err)
	}
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	if err := flock.LockByte(ctx, f, flock.Exclusive, 4); err == nil || errors.Is(err, flock.ErrHeld) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("exclusive through a file open for reading: %v", err)
	}
}
