package driver

import "sync"

// counts holds how often each layer was got and not yet put. A layer that is not
// in it has a count that only the kernel knows; see Driver.count.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) get(id string) (n int, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, known = c.n[id]
	return n, known
}

// set remembers a count; zero is forgotten, since then nothing is mounted.
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

func (c *counts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = nil
}
