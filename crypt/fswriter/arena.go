package fswriter

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Heap lends Go's heap to one image at a time: several at once would fill it up to the limit of the
// process, and collecting garbage would take longer than making the images. The zero value is
// ready. It may be used by many goroutines.
type Heap struct{ lent atomic.Bool }

// Arena hands out memory, which is zero. The first share of it is of Go's heap, which keeps
// it for the next image; the rest is memory that the garbage collector does not count: with it the
// heap does not grow to twice of what is alive before it is collected.
type Arena struct {
	heap   int // bytes handed out of the heap
	share  int // how many may be
	pieces [][]byte

	// outgrown is called once, before the first piece that the heap has no share for.
	outgrown func() error
	left     bool // the heap
	lender   *Heap
}

// NewArena is an arena that has the heap, if nobody else has it; h may be nil.
func NewArena(h *Heap) *Arena {
	switch {
	case h == nil:
		return &Arena{}
	case h.lent.CompareAndSwap(false, true):
		return &Arena{lender: h}
	}
	return &Arena{left: true}
}

// Alloc hands out n bytes.
func (a *Arena) Alloc(n int) ([]byte, error) {
	if !a.left && a.heap+n <= a.share {
		a.heap += n
		return make([]byte, n), nil
	}
	if !a.left {
		a.left = true
		if a.outgrown != nil {
			if err := a.outgrown(); err != nil {
				return nil, err
			}
		}
	}
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("memory for the file system: %w", err)
	}
	a.pieces = append(a.pieces, b)
	return b, nil
}

// Drop gives back one piece. One of the heap goes when nothing refers to it.
func (a *Arena) Drop(b []byte) {
	for i, p := range a.pieces {
		if unsafe.SliceData(p) == unsafe.SliceData(b) {
			a.pieces = append(a.pieces[:i], a.pieces[i+1:]...)
			_ = unix.Munmap(b) // fails for what was not mapped only
			return
		}
	}
}

// Free gives everything back; nothing of it may be touched any more.
func (a *Arena) Free() {
	for _, p := range a.pieces {
		_ = unix.Munmap(p) // as in drop
	}
	a.pieces, a.heap = nil, 0
	if a.lender != nil {
		a.lender.lent.Store(false)
		a.lender = nil
	}
}

// columnChunk is how many values a column grows by.
const columnChunk = 1 << 13

// Column is a list that grows without being copied. T holds no pointers.
type Column[T any] struct {
	memory *Arena
	chunks [][]T
	n      int
}

// Add makes one more value, of zeros.
func (c *Column[T]) Add() (*T, error) {
	if c.n/columnChunk == len(c.chunks) {
		var t T
		b, err := c.memory.Alloc(columnChunk * int(unsafe.Sizeof(t)))
		if err != nil {
			return nil, err
		}
		c.chunks = append(c.chunks, unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), columnChunk))
	}
	c.n++
	return c.At(c.n - 1), nil
}

// At is valid until the arena is given back.
func (c *Column[T]) At(i int) *T { return &c.chunks[i/columnChunk][i%columnChunk] }

// Len is how many values there are.
func (c *Column[T]) Len() int { return c.n }
