package convert

import (
	"sync"
	"time"
)

// Progress says how far a run is.
type Progress struct {
	Item        string // source at work
	Files       int64  // done, of all items
	TotalFiles  int64
	Bytes       int64 // copied, of all items
	TotalBytes  int64
	BytesPerSec int64         // since the run began
	Left        time.Duration // at this rate; 0 while unknown
}

// pace is how often progress is told: often enough for a person, seldom enough for a terminal
// at 9600 baud.
const pace = 200 * time.Millisecond

// counter counts what is done, and tells about it.
type counter struct {
	tell func(Progress)

	mu      sync.Mutex
	now     Progress
	had     int64 // bytes that an earlier run copied: they say nothing of the rate
	started time.Time
	told    time.Time
}

func newCounter(tell func(Progress)) *counter {
	return &counter{tell: tell, started: time.Now()}
}

func (c *counter) total(files, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.TotalFiles, c.now.TotalBytes = files, bytes
}

func (c *counter) item(name string) {
	c.add(func() { c.now.Item = name }, true)
}

func (c *counter) bytes(n int64) { c.add(func() { c.now.Bytes += n }, false) }

func (c *counter) file(n int64) { c.add(func() { c.now.Files += n }, false) }

// resumed counts a file that an earlier run copied.
func (c *counter) resumed(bytes int64) {
	c.add(func() {
		c.now.Files++
		c.now.Bytes += bytes
		c.had += bytes
	}, false)
}

// done is what this run copied.
func (c *counter) done() (files, bytes int64, seconds float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Files, c.now.Bytes - c.had, time.Since(c.started).Seconds()
}

// end tells the last state.
func (c *counter) end() { c.add(func() {}, true) }

func (c *counter) add(do func(), always bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	if c.tell == nil || !always && time.Since(c.told) < pace {
		return
	}
	c.told = time.Now()
	p := c.now
	if took := c.told.Sub(c.started); took > 0 {
		p.BytesPerSec = int64(float64(p.Bytes-c.had) / took.Seconds())
	}
	if p.BytesPerSec > 0 && p.TotalBytes > p.Bytes {
		p.Left = time.Duration(float64(p.TotalBytes-p.Bytes) / float64(p.BytesPerSec) * float64(time.Second)).Round(time.Second)
	}
	c.tell(p)
}
