package layertar

import (
	"context"
	"io"
)

// aheadSize and aheadBuffers say how far reading goes ahead of unpacking: 2 MiB, many
// entries of small files, so that the two keep a processor each busy.
const (
	aheadSize    = 512 << 10
	aheadBuffers = 4
)

// aheadReader reads from a goroutine of its own.
type aheadReader struct {
	count int64 // bytes handed out
	zeros int64 // how many of them, from the last call of mark on, were zeros without a gap
	from  int64 // where that counts from
	ctx   context.Context
	buf   []byte // the piece being handed out
	rest  []byte // what is left of it
	err   error
	full  chan piece
	free  chan []byte
	quit  chan struct{}
	done  chan struct{}
}

type piece struct {
	data []byte
	err  error
}

func readAhead(ctx context.Context, r io.Reader) *aheadReader {
	a := &aheadReader{
		ctx:  ctx,
		full: make(chan piece, aheadBuffers),
		free: make(chan []byte, aheadBuffers),
		quit: make(chan struct{}),
		done: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- nil // allocated when it is needed
	}
	go func() {
		defer close(a.done)
		for {
			select {
			case <-a.quit:
				return
			case buf := <-a.free:
				if a.stopped() {
					return
				}
				if buf == nil {
					buf = make([]byte, aheadSize)
				}
				n, err := fill(r, buf)
				a.full <- piece{buf[:n], err}
				if err != nil {
					return
				}
			}
		}
	}()
	return a
}

func (a *aheadReader) stopped() bool {
	select {
	case <-a.quit:
		return true
	default:
		return false
	}
}

// stop ends the goroutine. It waits for the one read that may be under way, but no
// longer than ctx lasts: a peer that sends nothing more must not hold up what was given
// up. The goroutine then ends with that read.
func (a *aheadReader) stop(ctx context.Context) {
	close(a.quit)
	select {
	case <-a.done:
	case <-ctx.Done():
	}
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if err := a.ctx.Err(); err != nil {
			return 0, err
		}
		if a.err != nil {
			return 0, a.err
		}
		select {
		case <-a.ctx.Done():
			return 0, a.ctx.Err()
		case next := <-a.full:
			if a.buf != nil {
				a.free <- a.buf[:aheadSize]
			}
			a.buf, a.rest, a.err = next.data, next.data, next.err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	a.countZeros(p[:n])
	a.count += int64(n)
	return n, nil
}

// mark starts to count zeros at an offset that is not read yet.
func (a *aheadReader) mark(offset int64) { a.from, a.zeros = offset, 0 }

// onlyZeros tells whether nothing but zeros was read since the mark.
func (a *aheadReader) onlyZeros() bool { return a.count <= a.from || a.zeros == a.count-a.from }

// countZeros goes on counting as long as there is nothing but zeros since the mark.
func (a *aheadReader) countZeros(b []byte) {
	if skip := a.from - a.count; skip > 0 {
		b = b[min(skip, int64(len(b))):]
	} else if a.zeros != a.count-a.from {
		return // something else was seen
	}
	for _, c := range b {
		if c != 0 {
			return
		}
		a.zeros++
	}
}

// fill reads until buf is full. Unlike io.ReadFull it keeps the reader's own error: a
// body that was cut off says io.ErrUnexpectedEOF, one that ended says io.EOF.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}
