package layer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"layervault/layer"
)

func TestLocks(t *testing.T) {
	var l layer.Locks
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
	var l layer.Locks
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
