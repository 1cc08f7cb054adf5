package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// block is the unit of a content's digest. A block of zeros counts nothing, so that a hole of a
// terabyte costs no time, and a copy whose holes lie elsewhere has the same digest.
const block = 64 << 10

// chunk is what is read and written at once: large enough for a disk, small enough for memory.
const chunk = 1 << 20

var zeros [block]byte

// contentHash is SHA-256 over the number and the bytes of each block that is not all zeros, and
// the size.
type contentHash struct {
	sum   hash.Hash
	plain hash.Hash // SHA-256 of all bytes; nil where nobody asks
	at    int64     // where plain is
	n     int64     // number of the block in part
	part  []byte    // what is there of it, zeros where nothing was said; empty for none
	spare []byte
}

func newContentHash(plain bool) *contentHash {
	h := &contentHash{sum: sha256.New(), spare: make([]byte, block)}
	if plain {
		h.plain = sha256.New()
	}
	return h
}

// add takes the bytes at a place. Places only go up.
func (h *contentHash) add(off int64, data []byte) {
	if h.plain != nil {
		h.zerosTo(off)
		_, _ = h.plain.Write(data)
		h.at = off + int64(len(data))
	}
	for len(data) > 0 {
		n, in := off/block, int(off%block)
		if h.part != nil && h.n != n {
			h.flush()
		}
		if in == 0 && len(data) >= block && h.part == nil {
			h.block(n, data[:block])
			off, data = off+block, data[block:]
			continue
		}
		if h.part == nil {
			h.part, h.n = h.spare, n
			clear(h.part)
		}
		done := copy(h.part[in:], data)
		off, data = off+int64(done), data[done:]
	}
}

func (h *contentHash) flush() {
	if h.part != nil {
		h.block(h.n, h.part)
		h.part = nil
	}
}

func (h *contentHash) block(n int64, data []byte) {
	if bytes.Equal(data, zeros[:]) {
		return
	}
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(n))
	_, _ = h.sum.Write(head[:])
	_, _ = h.sum.Write(data)
}

func (h *contentHash) zerosTo(off int64) {
	for h.at < off {
		n := min(off-h.at, block)
		_, _ = h.plain.Write(zeros[:n])
		h.at += n
	}
}

// end gives the digests in hex; plain is "" where nobody asked.
func (h *contentHash) end(size int64) (content, plain string) {
	h.flush()
	var tail [16]byte
	copy(tail[:], "size    ")
	binary.BigEndian.PutUint64(tail[8:], uint64(size))
	_, _ = h.sum.Write(tail[:])
	if h.plain != nil {
		h.zerosTo(size)
		plain = hex.EncodeToString(h.plain.Sum(nil))
	}
	return hex.EncodeToString(h.sum.Sum(nil)), plain
}

// piece is a part of a file that is not a hole.
type piece struct {
	off  int64
	data []byte
}

// readPieces reads what is no hole of a file, and calls do for each piece in order. A piece is
// valid until do returns.
func readPieces(ctx context.Context, f *os.File, size int64, buf []byte, do func(piece) error) error {
	for pos := int64(0); pos < size; {
		from, to, err := nextData(f, pos, size)
		if err != nil || from >= size {
			return err
		}
		for from < to {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := f.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
			if n > 0 {
				if err := do(piece{from, buf[:n]}); err != nil {
					return err
				}
				from += int64(n)
			}
			if errors.Is(err, io.EOF) && from < to {
				return fmt.Errorf("%s: %w: it became shorter", f.Name(), ErrChanged)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		pos = to
	}
	return nil
}

// nextData finds the next part that is no hole.
func nextData(f *os.File, pos, size int64) (from, to int64, err error) {
	from, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // only a hole is left
		return size, size, nil
	case errors.Is(err, unix.EINVAL): // a file system that knows no holes
		return pos, size, nil
	case err != nil:
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	return min(from, size), min(to, size), nil
}

// hashFile reads a file for its digest.
func hashFile(ctx context.Context, f *os.File, size int64, buf []byte) (string, error) {
	h := newContentHash(false)
	err := readPieces(ctx, f, size, buf, func(p piece) error { h.add(p.off, p.data); return nil })
	if err != nil {
		return "", err
	}
	sum, _ := h.end(size)
	return sum, nil
}

// large is the size from which hashing gets a goroutine of its own, beside the one that reads
// and writes.
const large = 8 << 20

// ahead is how many chunks of a large file are in memory, two for each worker at work.
const ahead = 3

// copyContent copies a file's bytes, with its holes, and gives the digests of what was read. A
// clone has the bytes already.
func copyContent(ctx context.Context, from, to *os.File, size int64, plain, clone bool, wrote func(int64)) (content, full string, err error) {
	if err := to.Truncate(size); err != nil {
		return "", "", err
	}
	h := newContentHash(plain)
	write := func(p piece) error {
		if !clone {
			if _, err := to.WriteAt(p.data, p.off); err != nil {
				return err
			}
		}
		wrote(int64(len(p.data)))
		return nil
	}
	if size < large {
		buf := make([]byte, min(size, chunk))
		err = readPieces(ctx, from, size, buf, func(p piece) error {
			h.add(p.off, p.data)
			return write(p)
		})
	} else {
		err = copyLarge(ctx, from, size, h, write)
	}
	if err != nil {
		return "", "", err
	}
	content, full = h.end(size)
	return content, full, nil
}

// copyLarge hashes one chunk while the next is read and written.
func copyLarge(ctx context.Context, from *os.File, size int64, h *contentHash, write func(piece) error) error {
	free, hash, done := make(chan []byte, ahead), make(chan piece, ahead), make(chan struct{})
	for range ahead {
		free <- make([]byte, chunk)
	}
	go func() {
		defer close(done)
		for p := range hash {
			h.add(p.off, p.data)
			free <- p.data[:chunk]
		}
	}()
	spare := make([]byte, chunk)
	err := readPieces(ctx, from, size, spare, func(p piece) error {
		own := <-free
		n := copy(own, p.data)
		hash <- piece{p.off, own[:n]}
		return write(p)
	})
	close(hash)
	<-done
	return err
}
