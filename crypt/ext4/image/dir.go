package image

import (
	"cmp"
	"maps"
	"slices"
)

// linearBlocks is the size up to which a directory is a plain list. Beyond it, it
// gets an index over the hashes of the names, as the kernel makes one: a look-up then
// reads two blocks instead of all.
const linearBlocks = 2

const (
	dirEntryHeader = 8
	dxRootEntries  = (BlockSize - 32) / 8 // entries that fit behind "." and ".." in the root
	dxNodeEntries  = (BlockSize - 8) / 8
)

// entry is a name in a directory.
type entry struct {
	name  string
	inode *Inode
	hash  uint32
}

func entrySize(name string) int { return (dirEntryHeader + len(name) + 3) &^ 3 }

// fileType is the kind that a directory entry repeats.
func fileType(mode uint16) byte {
	switch mode & modeType {
	case modeRegular:
		return 1
	case modeDir:
		return 2
	case modeChar:
		return 3
	case modeBlock:
		return 4
	case modeFIFO:
		return 5
	case modeSocket:
		return 6
	case modeSymlink:
		return 7
	}
	return 0
}

// dirBlocks lays out the content of a directory.
func dirBlocks(d *Inode, seed [4]uint32) (blocks [][]byte, indexed bool) {
	list := make([]entry, 0, len(d.dir.children))
	for name, inode := range d.dir.children {
		list = append(list, entry{name: name, inode: inode})
	}
	// By inode number: whoever reads in this order reads the inode table and the content
	// in order too.
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.inode.number, b.inode.number), cmp.Compare(a.name, b.name))
	})
	var p packer
	p.put(".", d, BlockSize)
	p.put("..", d.dir.parent, BlockSize)
	for _, e := range list {
		p.put(e.name, e.inode, BlockSize)
	}
	p.finish()
	if len(p.blocks) <= linearBlocks {
		return p.blocks, false
	}
	if indexed := indexedDir(d, list, seed); indexed != nil {
		return indexed, true
	}
	return p.blocks, false
}

// packer fills blocks with entries.
type packer struct {
	blocks [][]byte
	at     int // where the next entry goes in the last block
	last   int // where the one before it begins
}

// put adds an entry and reports whether it begins a new block. limit is where blocks
// end.
func (p *packer) put(name string, i *Inode, limit int) (fresh bool) {
	n := entrySize(name)
	if len(p.blocks) == 0 || p.at+n > limit {
		p.finish()
		p.blocks = append(p.blocks, make([]byte, BlockSize))
		p.at, fresh = 0, true
	}
	b := p.blocks[len(p.blocks)-1][p.at:]
	putEntry(b, i, n, name)
	p.last, p.at = p.at, p.at+n
	return fresh
}

// finish lets the last entry reach to the end of its block.
func (p *packer) finish() {
	if len(p.blocks) > 0 {
		le.PutUint16(p.blocks[len(p.blocks)-1][p.last+4:], uint16(BlockSize-p.last))
	}
}

func putEntry(b []byte, i *Inode, size int, name string) {
	le.PutUint32(b[0:], i.number)
	le.PutUint16(b[4:], uint16(size))
	b[6], b[7] = byte(len(name)), fileType(i.mode)
	copy(b[dirEntryHeader:], name)
}

// indexedDir lays out a hashed directory: a root block, at most one level of index
// blocks, then leaves in the order of the hashes. nil where that is not enough (more
// than 250,000 leaves).
func indexedDir(d *Inode, list []entry, seed [4]uint32) [][]byte {
	for i := range list {
		list[i].hash = hashName(list[i].name, seed)
	}
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name))
	})
	var leaves packer
	var first []uint32 // the lowest hash of each leaf
	for i, e := range list {
		if leaves.put(e.name, e.inode, BlockSize) {
			h := e.hash
			if i > 0 && list[i-1].hash == h {
				h |= 1 // names with this hash began in the leaf before
			}
			first = append(first, h)
		}
	}
	leaves.finish()
	first[0] = 0

	nodes := 0
	if len(first) > dxRootEntries {
		nodes = (len(first) + dxNodeEntries - 1) / dxNodeEntries
	}
	if nodes > dxRootEntries {
		return nil
	}
	root := make([]byte, BlockSize)
	putEntry(root, d, 12, ".")
	putEntry(root[12:], d.dir.parent, BlockSize-12, "..")
	root[28], root[29] = hashHalfMD4, 8 // struct dx_root_info: hash version, its length
	blocks := [][]byte{root}
	leafAt := uint32(1 + nodes) // number of the first leaf within the directory
	if nodes == 0 {
		putIndex(root[32:], dxRootEntries, first, leafAt, 1)
		return append(blocks, leaves.blocks...)
	}
	root[30] = 1 // levels between the root and the leaves
	var firstOfNode []uint32
	for left, at := first, leafAt; len(left) > 0; {
		n := min(len(left), dxNodeEntries)
		firstOfNode = append(firstOfNode, left[0])
		node := make([]byte, BlockSize)
		le.PutUint16(node[4:], BlockSize) // an empty entry, for who takes it for a list
		putIndex(node[8:], dxNodeEntries, left[:n], at, 1)
		blocks = append(blocks, node)
		left, at = left[n:], at+uint32(n)
	}
	putIndex(root[32:], dxRootEntries, firstOfNode, 1, 1)
	return append(blocks, leaves.blocks...)
}

// putIndex writes struct dx_entry for consecutive blocks. The first has no hash: its
// place is taken by the limit and the count.
func putIndex(b []byte, limit int, hashes []uint32, block, step uint32) {
	for i, h := range hashes {
		le.PutUint32(b[i*8:], h)
		le.PutUint32(b[i*8+4:], block+uint32(i)*step)
	}
	le.PutUint16(b[0:], uint16(limit))
	le.PutUint16(b[2:], uint16(len(hashes)))
}

// sortedNames is the children of a directory in a fixed order.
func sortedNames(d *Inode) []string { return slices.Sorted(maps.Keys(d.dir.children)) }
