package socket

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrStopping is the answer to requests that come while the plugin stops.
var ErrStopping = errors.New("plugin is stopping")

// Gate controls the requests of a door to their target, a T. Requests wait until the gate is
// opened, fail after it is refused, and are counted, so that a stopping plugin can wait for
// them.
type Gate[T any] struct {
	once sync.Once
	// target and refused are read only after opened is closed.
	target  T
	refused error
	opened  chan struct{}

	// A sync.WaitGroup cannot count requests: its counter must not grow from zero during
	// Wait.
	mu       sync.Mutex
	inside   int
	stopping bool
	idle     chan struct{} // closed when stopping and nothing is inside
}

// NewGate makes a gate that is neither open nor refused.
func NewGate[T any]() *Gate[T] {
	return &Gate[T]{opened: make(chan struct{}), idle: make(chan struct{})}
}

// Open sets the gate's target and releases waiting requests. Only the first call of Open or
// Refuse counts.
func (g *Gate[T]) Open(target T) {
	g.once.Do(func() {
		g.target = target
		close(g.opened)
	})
}

// Refuse answers every request with an error: there will be no target. Only the first call of
// Open or Refuse counts.
func (g *Gate[T]) Refuse(err error) {
	g.once.Do(func() {
		g.refused = err
		close(g.opened)
	})
}

// Wait blocks until the gate is open or refused, or the client has gone.
func (g *Gate[T]) Wait(ctx context.Context) (target T, err error) {
	select {
	case <-g.opened:
		return g.target, g.refused
	case <-ctx.Done():
		return target, fmt.Errorf("plugin is still starting: %w", context.Cause(ctx))
	}
}

// Enter begins a request; false if the plugin is stopping.
func (g *Gate[T]) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		return false
	}
	g.inside++
	return true
}

// Leave ends a request that Enter began.
func (g *Gate[T]) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.stopping && g.inside == 0 {
		close(g.idle)
	}
}

// Drain refuses new requests and waits for running ones, or until ctx ends.
func (g *Gate[T]) Drain(ctx context.Context) error {
	g.stop()
	select {
	case <-g.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests still running: %w", context.Cause(ctx))
	}
}

func (g *Gate[T]) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.stopping && g.inside == 0 {
		close(g.idle)
	}
	g.stopping = true
}
