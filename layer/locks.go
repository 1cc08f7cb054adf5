package layer

import (
	"context"
	"fmt"
	"sync"
)

// Locks is a mutex for each name. A name nobody holds or waits for costs
// nothing. The zero value is ready.
type Locks struct {
	mu    sync.Mutex
	named map[string]*namedLock
}

// namedLock is held by whoever put the token into the channel.
type namedLock struct {
	token chan struct{}
	users int // holders and waiters; guarded by Locks.mu
}

// Lock waits for the lock of name, or until ctx ends. The returned function
// unlocks; call it exactly once.
func (l *Locks) Lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.named == nil {
		l.named = make(map[string]*namedLock)
	}
	n := l.named[name]
	if n == nil {
		n = &namedLock{token: make(chan struct{}, 1)}
		l.named[name] = n
	}
	n.users++
	l.mu.Unlock()

	select {
	case n.token <- struct{}{}:
		return func() {
			<-n.token
			l.leave(name, n)
		}, nil
	case <-ctx.Done():
		l.leave(name, n)
		return nil, fmt.Errorf("wait for %s: %w", name, context.Cause(ctx))
	}
}

func (l *Locks) leave(name string, n *namedLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(l.named, name)
	}
}
