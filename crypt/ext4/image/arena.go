package image

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arena hands out memory that the garbage collector does not count: with it the heap
// stays as small as one entry of the tar, and does not grow to twice of what is alive
// before it is collected. It is zero and begins on a page.
type arena struct{ pieces [][]byte }

func (a *arena) alloc(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("memory for the file system: %w", err)
	}
	a.pieces = append(a.pieces, b)
	return b, nil
}

// drop gives back one piece.
func (a *arena) drop(b []byte) {
	for i, p := range a.pieces {
		if unsafe.SliceData(p) == unsafe.SliceData(b) {
			a.pieces = append(a.pieces[:i], a.pieces[i+1:]...)
			_ = unix.Munmap(b) // fails for what was not mapped only
			return
		}
	}
}

// free gives everything back; nothing of it may be touched any more.
func (a *arena) free() {
	for _, p := range a.pieces {
		_ = unix.Munmap(p) // as in drop
	}
	a.pieces = nil
}

// columnChunk is how many values a column grows by.
const columnChunk = 1 << 13

// column is a list that grows without being copied. T holds no pointers.
type column[T any] struct {
	memory *arena
	chunks [][]T
	n      int
}

// add makes one more value, of zeros.
func (c *column[T]) add() (*T, error) {
	if c.n/columnChunk == len(c.chunks) {
		var t T
		b, err := c.memory.alloc(columnChunk * int(unsafe.Sizeof(t)))
		if err != nil {
			return nil, err
		}
		c.chunks = append(c.chunks, unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), columnChunk))
	}
	c.n++
	return c.at(c.n - 1), nil
}

func (c *column[T]) at(i int) *T { return &c.chunks[i/columnChunk][i%columnChunk] }
