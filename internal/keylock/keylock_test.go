package keylock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"layervault/internal/keylock"
)

func TestLocks(t *testing.T) {
	var l keylock.Locks
	counts := make([]int, 5)
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			unlock, err := l.Lock(t.Context(), fmt.Sprint(n%len(counts)))
			if err != nil {
				t.Error(err)
				return
			}
			counts[n%len(counts)]++ // -race tells whether this is alone
			unlock()
		})
	}
	wg.Wait()
	for n, c := range counts {
		if c != 40 {
			t.Errorf("count %d is %d", n, c)
		}
	}
}

func TestLocksGiveUp(t *testing.T) {
	var l keylock.Locks
	unlock, err := l.Lock(t.Context(), "a")
	must(t, err)
	other, err := l.Lock(t.Context(), "b") // is not in the way
	must(t, err)
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("waited for: %v", err)
	}
	unlock()
	unlock, err = l.Lock(t.Context(), "a")
	must(t, err)
	unlock()
}

// The places (FNV-1a of 64 bits, without its last two) are as fixed as a format: another version
// of the plugin may hold one.
func TestOffset(t *testing.T) {
	for key, want := range map[string]int64{"": 0x32fca739210888c9, "db": 0x2245381ed4ee878, "db@platform": 0x25770c79cd1a1bf3} {
		if got := keylock.Offset(key); got != want || got < 0 {
			t.Errorf("%q: %#x", key, got)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
