package verity

import (
	"bytes"
	"context"
	"fmt"
)

// leafChunk and upperChunk are the sizes of writes to the tree in bytes: the lowest level is
// 127 of its 128 parts.
const (
	leafChunk  = 1 << 20
	upperChunk = 64 << 10
	readChunk  = 1 << 20 // of blocks that were not written, in bytes
)

// Finish writes the tree of the first size bytes behind them and says what is needed to use
// it. size is in whole blocks, at least one. No write may be under way. Finish reads blocks
// that were never written, from a destination that has them. It does not sync. The Writer is of no
// use afterwards, also where Finish fails.
//
// Errors: ErrGeometry, ErrFinished, the context's, or what the destination returned.
func (w *Writer) Finish(ctx context.Context, size int64) (Tree, error) {
	w.mu.Lock()
	busy := w.finished || len(w.busy) > 0
	w.finished = true
	err := w.err
	w.mu.Unlock()
	switch {
	case busy:
		return Tree{}, ErrFinished
	case err != nil:
		return Tree{}, err
	case size <= 0 || size%BlockSize != 0 || size > int64(w.limit)*BlockSize:
		return Tree{}, fmt.Errorf("%w: data of %d bytes", ErrGeometry, size)
	}
	t := Tree{Salt: w.salt, DataBlocks: uint64(size / BlockSize), HashStart: uint64(size / BlockSize)}
	f := newFinisher(w.dst, &t)
	defer w.release()
	for first := uint64(0); first < t.DataBlocks; first += pageHashes {
		if err := ctx.Err(); err != nil {
			return Tree{}, err
		}
		p, err := w.leaves.page(int(first / pageHashes))
		if err != nil {
			return Tree{}, err
		}
		hashes := p.data[:min(t.DataBlocks-first, pageHashes)*HashSize]
		if err := f.fill(ctx, hashes, first); err != nil {
			return Tree{}, err
		}
		if err := f.add(0, hashes); err != nil {
			return Tree{}, err
		}
		p.dirty, p.used = false, false // done with it
	}
	if err := f.close(); err != nil {
		return Tree{}, err
	}
	return t, nil
}

// release gives the memory back.
func (w *Writer) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaves = leaves{}
}

// finisher writes all levels at the same time, each in one go.
type finisher struct {
	dst    ReadWriterAt
	hasher *hasher
	tree   *Tree
	levels []levelWriter
	data   []byte // that was read, see fill
}

type levelWriter struct {
	at  int64
	buf []byte
	n   int
}

func newFinisher(dst ReadWriterAt, t *Tree) *finisher {
	f := &finisher{dst: dst, hasher: newHasher(t.Salt), tree: t}
	for i, l := range t.levels() {
		chunk := upperChunk
		if i == 0 {
			chunk = leafChunk
		}
		f.levels = append(f.levels, levelWriter{
			at:  int64(l.start) * BlockSize,
			buf: alignedBytes(int(min(uint64(chunk), l.blocks*BlockSize))),
		})
	}
	return f
}

// fill finds out the hashes that are unknown: those of the blocks from first on.
func (f *finisher) fill(ctx context.Context, hashes []byte, first uint64) error {
	isUnknown := func(at int) bool { return bytes.Equal(hashes[at:at+HashSize], unknown[:]) }
	for at := 0; at < len(hashes); {
		if !isUnknown(at) {
			at += HashSize
			continue
		}
		end := at
		for end < len(hashes) && isUnknown(end) && (end-at)/HashSize < readChunk/BlockSize {
			end += HashSize
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.data == nil {
			f.data = alignedBytes(readChunk)
		}
		data := f.data[:(end-at)/HashSize*BlockSize]
		block := first + uint64(at/HashSize)
		if err := readFull(f.dst, data, int64(block)*BlockSize); err != nil {
			return fmt.Errorf("read %d blocks that were not written, from block %d on: %w", len(data)/BlockSize, block, err)
		}
		for ; at < end; at += HashSize {
			f.hasher.append(hashes[at:at], data[:BlockSize])
			data = data[BlockSize:]
		}
	}
	return nil
}

// add appends hashes to a level. Above the top there is the root hash.
func (f *finisher) add(level int, hashes []byte) error {
	if level == len(f.levels) {
		copy(f.tree.Root[:], hashes)
		return nil
	}
	l := &f.levels[level]
	for len(hashes) > 0 {
		n := copy(l.buf[l.n:], hashes)
		hashes = hashes[n:]
		if l.n += n; l.n == len(l.buf) {
			if err := f.flush(level); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what a level has, padded to whole blocks, and adds the hashes of these blocks to
// the level above.
func (f *finisher) flush(level int) error {
	l := &f.levels[level]
	whole := (l.n + BlockSize - 1) &^ (BlockSize - 1)
	clear(l.buf[l.n:whole])
	if _, err := f.dst.WriteAt(l.buf[:whole], l.at); err != nil {
		return fmt.Errorf("write hash tree: %w", err)
	}
	l.at += int64(whole)
	l.n = 0
	var hash [HashSize]byte
	for at := 0; at < whole; at += BlockSize {
		if err := f.add(level+1, f.hasher.append(hash[:0], l.buf[at:at+BlockSize])); err != nil {
			return err
		}
	}
	return nil
}

// close writes what is left.
func (f *finisher) close() error {
	for i := range f.levels {
		if f.levels[i].n == 0 {
			continue
		}
		if err := f.flush(i); err != nil {
			return err
		}
	}
	return nil
}
