// Package keylock has one lock for each key: a layer's id, a volume's name. Locks is for the
// goroutines of one process. Among processes the lock of a key is one byte of a common file
// (flock.LockByte), at the key's Offset: no file for each key, and nothing left by a crash.
package keylock

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
)

// Locks is a mutex for each key. A key that nobody holds or waits for costs nothing. The zero
// value is ready.
type Locks struct {
	mu   sync.Mutex
	keys map[string]*lock
}

// lock is held while its token is in the channel.
type lock struct {
	token chan struct{}
	users int // holders and waiters; guarded by Locks.mu
}

// Lock waits for the lock of a key, or until ctx ends. The returned function unlocks; call it
// exactly once.
func (l *Locks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	n := l.enter(key)
	select {
	case n.token <- struct{}{}:
		return func() {
			<-n.token
			l.leave(key, n)
		}, nil
	case <-ctx.Done():
		l.leave(key, n)
		return nil, fmt.Errorf("wait for %s: %w", key, context.Cause(ctx))
	}
}

func (l *Locks) enter(key string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		l.keys = make(map[string]*lock)
	}
	n := l.keys[key]
	if n == nil {
		n = &lock{token: make(chan struct{}, 1)}
		l.keys[key] = n
	}
	n.users++
	return n
}

func (l *Locks) leave(key string, n *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(l.keys, key)
	}
}

// Offset is the place of a key's byte in a lock file: the hash of the key. Two keys of one hash
// only wait for each other. The places are as fixed as a format: another version of the program
// may run at the same time.
func Offset(key string) int64 {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, key) // never fails
	return int64(hash.Sum64() >> 2)  // an offset is positive
}
