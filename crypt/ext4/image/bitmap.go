package image

import (
	"math/bits"

	"layervault/crypt/fswriter"
)

// blockMap fills the block bitmap of one group: 1 is used. Blocks up to end are, but for
// those that were freed, and those past the end of the file system count as used. freed
// is sorted.
func (w *Writer) blockMap(m []byte, group, groups, end, total uint32) {
	first := group * groupBlocks
	clear(m)
	within := func(change func([]byte, uint32, uint32), from, to uint32) {
		if from, to = max(from, first), min(to, first+groupBlocks); from < to {
			change(m, from-first, to-first)
		}
	}
	within(setBits, 0, end)
	// Room for descriptors of groups that there are not.
	usedDescs := (groups + descsPerBlock - 1) / descsPerBlock
	within(clearBits, 1+usedDescs, firstData)
	for len(w.freed) > 0 && w.freed[0][0] < first+groupBlocks {
		f := w.freed[0]
		within(clearBits, f[0], f[0]+f[1])
		if f[0]+f[1] > first+groupBlocks {
			break // goes on in the next group
		}
		w.freed = w.freed[1:]
	}
	within(setBits, total, first+groupBlocks)
}

// inodeMap fills the inode bitmap of one group and counts its directories. A group has
// fewer inodes than its block has bits; the rest of the bits is set.
func (w *Writer) inodeMap(m []byte, group, perGroup uint32) (dirs int) {
	clear(m)
	setBits(m, perGroup, groupMaxInodes)
	first, count := group*perGroup, uint32(w.tree.Nodes.Len())
	for i := first; i < min(first+perGroup, count); i++ {
		n := w.tree.Nodes.At(int(i))
		if n.Kind&fswriter.Gone != 0 {
			continue
		}
		setBits(m, i-first, i-first+1)
		if n.IsDir() {
			dirs++
		}
	}
	return dirs
}

func setBits(m []byte, from, to uint32) {
	for i := from; i < to; {
		if i%8 == 0 && to-i >= 8 {
			m[i/8] = 0xff
			i += 8
			continue
		}
		m[i/8] |= 1 << (i % 8)
		i++
	}
}

func clearBits(m []byte, from, to uint32) {
	for i := from; i < to; i++ {
		m[i/8] &^= 1 << (i % 8)
	}
}

func zeroBits(m []byte) (n int) {
	for ; len(m) >= 8; m = m[8:] {
		n += 64 - bits.OnesCount64(le.Uint64(m))
	}
	return n
}
