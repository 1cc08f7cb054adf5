package verity

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// Checking says how Verify works. The zero value stops at the first bad block.
type Checking struct {
	// MaxBad is how many bad blocks are listed before Verify gives up; 0 for one.
	MaxBad int
	// Progress, if not nil, is called as data blocks are done, with done <= total; the last
	// call of a whole run has done == total. It runs in Verify's goroutine.
	Progress func(done, total uint64)
}

// verifyChunk is how much data is read at a time, in bytes.
const verifyChunk = 1 << 20

// Verify reads every block of data and tree once, past the kernel's own check, and compares
// it with the tree. r is the device below dm-verity. A tree block is compared with the level
// above before anything in it is believed.
//
// Errors: a *CorruptError for blocks that are not what they were, ErrGeometry for what is no
// Tree, the context's, or what r returned.
func Verify(ctx context.Context, r io.ReaderAt, t Tree, c Checking) error {
	if err := t.Check(); err != nil {
		return err
	}
	v := newVerifier(r, t, max(c.MaxBad, 1))
	data := alignedBytes(verifyChunk)
	for first := uint64(0); first < t.DataBlocks && !v.stopped(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(t.DataBlocks-first, verifyChunk/BlockSize)
		if err := readFull(r, data[:n*BlockSize], int64(first)*BlockSize); err != nil {
			return fmt.Errorf("read %d blocks from block %d on: %w", n, first, err)
		}
		if err := v.data(data[:n*BlockSize], first); err != nil {
			return err
		}
		first += n
		if c.Progress != nil && !v.stopped() {
			c.Progress(first, t.DataBlocks)
		}
	}
	if len(v.result.Bad) == 0 {
		return nil
	}
	v.result.Stopped = v.stopped()
	return &v.result
}

// verifier holds one block of each level: those above the data block that is checked. So all
// levels are read in order.
type verifier struct {
	r      io.ReaderAt
	tree   Tree
	hasher *hasher
	maxBad int
	levels []levelReader
	result CorruptError
}

type levelReader struct {
	level
	ahead []byte // blocks read ahead, page aligned
	from  uint64 // of the level: the first in ahead
	have  uint64 // how many are there
	index uint64 // of the level: the block in checked
	// checked is the block that the hashes below are taken from; nil if it is bad.
	checked []byte
	loaded  bool
}

// aheadBlocks is how much of the tree is read at a time.
const aheadBlocks = 16

func newVerifier(r io.ReaderAt, t Tree, maxBad int) *verifier {
	v := &verifier{r: r, tree: t, hasher: newHasher(t.Salt), maxBad: maxBad}
	for _, l := range t.levels() {
		v.levels = append(v.levels, levelReader{level: l, ahead: alignedBytes(int(min(aheadBlocks, l.blocks)) * BlockSize)})
	}
	return v
}

func (v *verifier) stopped() bool { return len(v.result.Bad) >= v.maxBad }

func (v *verifier) bad(block uint64, level int) {
	v.result.Bad = append(v.result.Bad, BadBlock{Block: block, Level: level})
}

// data checks data blocks that were read.
func (v *verifier) data(b []byte, first uint64) error {
	var have [HashSize]byte
	for ; len(b) > 0 && !v.stopped(); b = b[BlockSize:] {
		want, err := v.want(0, first)
		switch {
		case err != nil:
			return err
		case v.stopped():
		case want == nil:
			v.result.Unchecked++
		case !bytes.Equal(v.hasher.append(have[:0], b[:BlockSize]), want):
			v.bad(first, 0)
		}
		first++
	}
	return nil
}

// want is the hash that block n of a level must have (level 0: a data block), nil if the
// block that holds it is bad.
func (v *verifier) want(level int, n uint64) ([]byte, error) {
	if level == len(v.levels) {
		return v.tree.Root[:], nil
	}
	above, err := v.load(level, n/hashesPerBlock)
	if above == nil || err != nil {
		return nil, err
	}
	return above[n%hashesPerBlock*HashSize:][:HashSize], nil
}

// load is block n of v.levels[i], nil if it is bad. Each is read and judged once.
func (v *verifier) load(i int, n uint64) ([]byte, error) {
	l := &v.levels[i]
	if l.loaded && l.index == n {
		return l.checked, nil
	}
	want, err := v.want(i+1, n)
	if err != nil {
		return nil, err
	}
	l.loaded, l.index, l.checked = true, n, nil
	if want == nil {
		return nil, nil
	}
	if n < l.from || n >= l.from+l.have {
		l.from, l.have = n, min(aheadBlocks, l.blocks-n)
		if err := readFull(v.r, l.ahead[:l.have*BlockSize], int64(l.start+n)*BlockSize); err != nil {
			return nil, fmt.Errorf("read %d blocks of the tree from block %d on: %w", l.have, l.start+n, err)
		}
	}
	block := l.ahead[(n-l.from)*BlockSize:][:BlockSize]
	var have [HashSize]byte
	if !bytes.Equal(v.hasher.append(have[:0], block), want) {
		v.bad(l.start+n, i+1)
		return nil, nil
	}
	l.checked = block
	return block, nil
}
