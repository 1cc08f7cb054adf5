package socket

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrStopping is the answer to requests that come while the plugin stops.
var ErrStopping = errors.New("plugin is stopping; repeat the command when it runs again")

// Inflight counts requests under way. A sync.WaitGroup would not do: it must not grow
// while it is waited for.
type Inflight struct {
	mu       sync.Mutex
	n        int
	stopping bool
	idle     chan struct{} // closed when stopping and n == 0
}

// NewInflight makes a count of none.
func NewInflight() *Inflight { return &Inflight{idle: make(chan struct{})} }

// Enter begins a request; false says that none is taken any more.
func (f *Inflight) Enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping {
		return false
	}
	f.n++
	return true
}

// Leave ends a request that Enter began.
func (f *Inflight) Leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.stopping && f.n == 0 {
		close(f.idle)
	}
}

// Drain refuses further requests and waits until those under way have ended, or until
// ctx ends.
func (f *Inflight) Drain(ctx context.Context) error {
	f.stop()
	select {
	case <-f.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests still under way: %w", context.Cause(ctx))
	}
}

func (f *Inflight) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopping && f.n == 0 {
		close(f.idle)
	}
	f.stopping = true
}
