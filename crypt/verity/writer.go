package verity

import (
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"sync"
)

// ReadWriterAt is where the data goes: an open device or file.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Options of a Writer.
type Options struct {
	// Limit is the largest size that the data may have, in bytes: at most MaxBlocks blocks.
	// What is written behind it is passed on and not hashed.
	Limit int64
	// Scratch is where on the destination hashes are set aside, in bytes: ScratchSize(Limit)
	// bytes there are the Writer's. It lies behind Limit and the tree of that much data, and is
	// needed where Limit is more than MemoryLimit, else it may be 0.
	Scratch int64
	// Salt of the tree; nil for a random one. A salt is for one tree.
	Salt *[SaltSize]byte
}

// MemoryLimit is how much data a Writer hashes without a scratch area, in bytes.
const MemoryLimit = maxPages * pageHashes * BlockSize

// Writer hashes what is written through it. WriteAt and ReadAt may be called by many
// goroutines. A Writer has no goroutines of its own. Its memory is at most 4 MiB, and 5 bytes for
// each 8 MiB of data.
type Writer struct {
	dst     ReadWriterAt
	limit   uint64 // blocks
	salt    [SaltSize]byte
	hashers sync.Pool

	mu       sync.Mutex
	leaves   leaves
	busy     []*span // writes under way
	finished bool
	err      error // of leaves, for good
}

// span is the range of blocks that a write under way touches.
type span struct {
	first, end uint64
	// shared: another write touched the range at the same time. Which of them came last is
	// not known, so their blocks are read again.
	shared bool
}

// NewWriter is a Writer to dst. The error wraps ErrOptions.
func NewWriter(dst ReadWriterAt, o Options) (*Writer, error) {
	switch {
	case o.Limit <= 0 || o.Limit%BlockSize != 0 || o.Limit > MaxBlocks*BlockSize:
		return nil, fmt.Errorf("%w: limit of %d bytes", ErrOptions, o.Limit)
	case o.Scratch == 0 && o.Limit > MemoryLimit:
		return nil, fmt.Errorf("%w: limit of %d bytes needs a scratch area", ErrOptions, o.Limit)
	case o.Scratch != 0 && (o.Scratch%BlockSize != 0 || o.Scratch < o.Limit+Size(o.Limit)):
		return nil, fmt.Errorf("%w: scratch area at %d, data and tree take up to %d bytes", ErrOptions, o.Scratch, o.Limit+Size(o.Limit))
	}
	w := &Writer{dst: dst, limit: uint64(o.Limit / BlockSize), leaves: leaves{dst: dst, scratch: o.Scratch}}
	if o.Salt != nil {
		w.salt = *o.Salt
	} else {
		_, _ = rand.Read(w.salt[:]) // documented to return no error
	}
	w.hashers.New = func() any { return newHasher(w.salt) }
	return w, nil
}

// ReadAt passes on to the destination.
func (w *Writer) ReadAt(b []byte, at int64) (int, error) { return w.dst.ReadAt(b, at) }

// WriteAt passes on to the destination and hashes the blocks. Blocks may be written again:
// what counts is what the destination has in the end. A block that was written in part, by two
// goroutines at once, or with an error, is read from there by Finish.
func (w *Writer) WriteAt(b []byte, at int64) (int, error) {
	s := w.spanOf(at, len(b))
	if err := w.begin(s); err != nil {
		return 0, err
	}
	defer w.end(s)
	n, err := w.dst.WriteAt(b, at)
	if hashErr := w.hash(s, b, at, err != nil || n != len(b)); err == nil && hashErr != nil {
		return 0, hashErr
	}
	return n, err
}

// spanOf is the range of hashed blocks that n bytes at an offset touch; empty if there are none.
func (w *Writer) spanOf(at int64, n int) *span {
	if at < 0 || n == 0 {
		return &span{}
	}
	s := &span{first: uint64(at) / BlockSize, end: (uint64(at)+uint64(n)-1)/BlockSize + 1}
	s.end = min(s.end, w.limit)
	s.first = min(s.first, s.end)
	return s
}

func (w *Writer) begin(s *span) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.finished:
		return ErrFinished
	case w.err != nil:
		return w.err
	}
	for _, other := range w.busy {
		if s.first < other.end && other.first < s.end {
			s.shared, other.shared = true, true
		}
	}
	w.busy = append(w.busy, s)
	return nil
}

func (w *Writer) end(s *span) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = slices.DeleteFunc(w.busy, func(other *span) bool { return other == s })
}

// hash keeps the hashes of the blocks that b had at an offset. s is still among the writes
// under way: one that begins from now on makes it shared.
func (w *Writer) hash(s *span, b []byte, at int64, failed bool) error {
	h := w.hashers.Get().(*hasher)
	defer w.hashers.Put(h)
	var room [hashesPerBlock * HashSize]byte
	for first := s.first; first < s.end; {
		hashes := room[:0]
		end := min(first+hashesPerBlock, s.end)
		for i := first; i < end; i++ {
			from := int64(i)*BlockSize - at
			if failed || from < 0 || from+BlockSize > int64(len(b)) {
				hashes = append(hashes, unknown[:]...)
			} else {
				hashes = h.append(hashes, b[from:from+BlockSize])
			}
		}
		if err := w.keep(s, first, hashes); err != nil {
			return err
		}
		first = end
	}
	return nil
}

func (w *Writer) keep(s *span, first uint64, hashes []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.shared {
		clear(hashes)
	}
	if w.err == nil {
		w.err = w.leaves.set(first, hashes)
	}
	return w.err
}
