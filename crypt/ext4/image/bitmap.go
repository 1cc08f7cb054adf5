package image

import "math/bits"

// blockMap is the block bitmaps of all groups, one after another: 1 is used.
func (w *Writer) blockMap(groups, end, total uint32) []byte {
	m := make([]byte, groups*BlockSize)
	setBits(m, 0, end)
	// Room for descriptors of groups that there are not.
	usedDescs := (groups + descsPerBlock - 1) / descsPerBlock
	clearBits(m, 1+usedDescs, firstData)
	for _, f := range w.freed {
		clearBits(m, f[0], f[0]+f[1])
	}
	// Blocks past the end of the file system count as used.
	setBits(m, total, groups*groupBlocks)
	return m
}

// inodeMap is the inode bitmaps of all groups. A group has fewer inodes than its
// block has bits; the rest of the bits is set.
func (w *Writer) inodeMap(groups, perGroup uint32) []byte {
	m := make([]byte, groups*BlockSize)
	for g := range groups {
		base := g * groupMaxInodes
		first := g * perGroup // number of the group's first inode, from 0
		if w.inodes.count > first {
			setBits(m, base, base+min(perGroup, w.inodes.count-first))
		}
		setBits(m, base+perGroup, base+groupMaxInodes)
	}
	for _, number := range w.gone {
		bit := (number-1)/perGroup*groupMaxInodes + (number-1)%perGroup
		clearBits(m, bit, bit+1)
	}
	return m
}

func (w *Writer) dirsPerGroup(groups, perGroup uint32) []int {
	n := make([]int, groups)
	for _, number := range w.dirs {
		n[(number-1)/perGroup]++
	}
	return n
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
