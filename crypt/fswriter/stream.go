package fswriter

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

// Stream appends whole blocks. What is appended is collected in large buffers, which
// other goroutines write out; order between them does not matter.
type Stream struct {
	dst    io.WriterAt
	memory *Arena
	limit  int64 // no byte is written from here on
	cur    *buffer
	free   chan *buffer
	full   chan *buffer
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // the first that a writer met
}

// NewStream appends from start on, to limit at most.
func NewStream(dst io.WriterAt, memory *Arena, start, limit int64) *Stream {
	s := &Stream{dst: dst, memory: memory, limit: limit, free: make(chan *buffer, chunks), full: make(chan *buffer, chunks)}
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
func (s *Stream) next(at int64) {
	s.cur = <-s.free
	if s.cur.data == nil {
		var err error
		if s.cur.data, err = s.memory.Alloc(chunk); err != nil {
			s.cur.data = AlignedBytes(chunk)
		}
	}
	s.cur.at, s.cur.n = at, 0
}

// AlignedBytes is a slice that begins on a page.
func AlignedBytes(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (BlockSize - 1)
	return b[skip : skip+n : skip+n]
}

func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fmt.Errorf("write file system: %w", err)
	}
}

func (s *Stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Block is the number of the next block.
func (s *Stream) Block() uint32 { return uint32((s.cur.at + int64(s.cur.n)) / BlockSize) }

// Room is where the next bytes go: at least one block. What is put there counts once
// advance has been called.
func (s *Stream) Room() []byte { return s.cur.data[s.cur.n:] }

// Advance takes n bytes of room and pads them with zeros to whole blocks.
func (s *Stream) Advance(n int) error {
	end := s.cur.n + n
	whole := (end + BlockSize - 1) &^ (BlockSize - 1)
	clear(s.cur.data[end:whole])
	s.cur.n = whole
	if s.cur.at+int64(whole) > s.limit {
		return ErrTooBig
	}
	if s.cur.n == len(s.cur.data) {
		return s.Flush()
	}
	return nil
}

// Append copies b, padded to whole blocks.
func (s *Stream) Append(b []byte) error {
	for len(b) > 0 {
		n := copy(s.Room(), b)
		b = b[n:]
		if err := s.Advance(n); err != nil {
			return err
		}
	}
	return nil
}

// Flush hands the buffer to the writers and takes another.
func (s *Stream) Flush() error {
	if s.cur.n > 0 {
		at := s.cur.at + int64(s.cur.n)
		s.full <- s.cur
		s.next(at)
	}
	return s.failed()
}

// AppendZeros appends n bytes of zeros, whole blocks.
func (s *Stream) AppendZeros(n int) error {
	for n > 0 {
		piece := s.Room()
		piece = piece[:min(n, len(piece))]
		clear(piece)
		if err := s.Advance(len(piece)); err != nil {
			return err
		}
		n -= len(piece)
	}
	return nil
}

// Settle waits until all that was appended is on dst. It is slow.
func (s *Stream) Settle() error {
	if err := s.Flush(); err != nil {
		return err
	}
	for range chunks - 1 { // one is being filled
		b := <-s.free
		defer func() { s.free <- b }()
	}
	return s.failed()
}

// Close writes out what is left and ends the goroutines.
func (s *Stream) Close() error {
	err := s.Flush()
	close(s.full)
	s.wg.Wait()
	if err == nil {
		err = s.failed()
	}
	return err
}

// ReadAt reads back what was appended, whole blocks. It is slow.
func (s *Stream) ReadAt(b []byte, at int64) error {
	r, ok := s.dst.(io.ReaderAt)
	if !ok {
		return ErrNotReadable
	}
	if err := s.Settle(); err != nil {
		return err
	}
	if _, err := r.ReadAt(b, at); err != nil {
		return fmt.Errorf("read file system back: %w", err)
	}
	return nil
}

// AllZero tells runs of zeros, which become holes.
func AllZero(b []byte) bool {
	for len(b) >= 8 {
		if le.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
