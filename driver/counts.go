package driver

import "sync"

// counts holds the number of Gets without a Put for each layer. A missing layer may
// still be mounted; see Driver.count.
type counts struct {
	mu sync.Mutex
	n  map[string]int
	// times counts the mounts of each layer that this process made, until the layer is removed, so
	// that Seal sees one that came and went.
	times map[string]uint64
}

// mounts notes a mount of a layer.
func (c *counts) mounts(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times = make(map[string]uint64)
	}
	c.times[id]++
}

// mounted is how often a layer was mounted.
func (c *counts) mounted(id string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.times[id]
}

func (c *counts) get(id string) (n int, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, known = c.n[id]
	return n, known
}

// set stores a count; zero is deleted, since the layer is unmounted then.
func (c *counts) set(id string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	if n == 0 {
		delete(c.n, id)
		return
	}
	c.n[id] = n
}

// forget drops the mounts of a layer that was removed.
func (c *counts) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.times, id)
}

func (c *counts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = nil
}
