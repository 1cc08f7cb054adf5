package image

import (
	"fmt"
	"io"
	"sync"
	"unsafe"
)

// chunk is the size of one write, and chunks how many are under way or being filled.
// Larger writes measured no faster (dm-crypt and loop split them), smaller ones
// slower; 8 of them are 8 MiB while a layer is being imported.
// writers encrypt at the same time: dm-crypt works in the thread that writes.
const (
	chunk   = 1 << 20
	chunks  = 8
	writers = 3
)

type buffer struct {
	data []byte // page aligned, so that dst may be opened for direct I/O
	n    int    // bytes in use, whole blocks
	at   int64
}

// stream appends whole blocks. What is appended is collected in large buffers, which
// other goroutines write out; order between them does not matter.
type stream struct {
	dst    io.WriterAt
	memory *arena
	limit  int64 // no byte is written from here on
	cur    *buffer
	free   chan *buffer
	full   chan *buffer
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // the first that a writer met
}

func newStream(dst io.WriterAt, memory *arena, start, limit int64) *stream {
	s := &stream{dst: dst, memory: memory, limit: limit, free: make(chan *buffer, chunks), full: make(chan *buffer, chunks)}
	for range chunks {
		s.free <- &buffer{} // allocated when it is needed: most layers are small
	}
	for range writers {
		s.wg.Go(func() {
			for b := range s.full {
				if s.failed() == nil {
					if _, err := dst.WriteAt(b.data[:b.n], b.at); err != nil {
						s.fail(err)
					}
				}
				s.free <- b
			}
		})
	}
	s.next(start)
	return s
}

// next takes an empty buffer for what comes at offset at.
func (s *stream) next(at int64) {
	s.cur = <-s.free
	if s.cur.data == nil {
		var err error
		if s.cur.data, err = s.memory.alloc(chunk); err != nil {
			s.cur.data = alignedBytes(chunk)
		}
	}
	s.cur.at, s.cur.n = at, 0
}

// alignedBytes is a slice that begins on a page.
func alignedBytes(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (BlockSize - 1)
	return b[skip : skip+n : skip+n]
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fmt.Errorf("write file system: %w", err)
	}
}

func (s *stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// block is the number of the next block.
func (s *stream) block() uint32 { return uint32((s.cur.at + int64(s.cur.n)) / BlockSize) }

// room is where the next bytes go: at least one block. What is put there counts once
// advance has been called.
func (s *stream) room() []byte { return s.cur.data[s.cur.n:] }

// advance takes n bytes of room and pads them with zeros to whole blocks.
func (s *stream) advance(n int) error {
	end := s.cur.n + n
	whole := (end + BlockSize - 1) &^ (BlockSize - 1)
	clear(s.cur.data[end:whole])
	s.cur.n = whole
	if s.cur.at+int64(whole) > s.limit {
		return ErrTooBig
	}
	if s.cur.n == len(s.cur.data) {
		return s.flush()
	}
	return nil
}

// append copies b, padded to whole blocks.
func (s *stream) append(b []byte) error {
	for len(b) > 0 {
		n := copy(s.room(), b)
		b = b[n:]
		if err := s.advance(n); err != nil {
			return err
		}
	}
	return nil
}

// flush hands the buffer to the writers and takes another.
func (s *stream) flush() error {
	if s.cur.n > 0 {
		at := s.cur.at + int64(s.cur.n)
		s.full <- s.cur
		s.next(at)
	}
	return s.failed()
}

// appendZeros appends n bytes of zeros, whole blocks.
func (s *stream) appendZeros(n int) error {
	for n > 0 {
		piece := s.room()
		piece = piece[:min(n, len(piece))]
		clear(piece)
		if err := s.advance(len(piece)); err != nil {
			return err
		}
		n -= len(piece)
	}
	return nil
}

// settle waits until all that was appended is on dst. It is slow.
func (s *stream) settle() error {
	if err := s.flush(); err != nil {
		return err
	}
	for range chunks - 1 { // one is being filled
		b := <-s.free
		defer func() { s.free <- b }()
	}
	return s.failed()
}

// close writes out what is left and ends the goroutines.
func (s *stream) close() error {
	err := s.flush()
	close(s.full)
	s.wg.Wait()
	if err == nil {
		err = s.failed()
	}
	return err
}
