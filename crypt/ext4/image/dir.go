package image

import (
	"cmp"
	"slices"

	"layervault/crypt/fswriter"
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
	name uint32 // its number
	hash uint32
	size uint16 // of its entry in bytes
}

func entrySize(name int) int { return (dirEntryHeader + name + 3) &^ 3 }

// dirBlocks writes the content of a directory.
func (w *Writer) dirBlocks(d Inode, n *fswriter.Node) (indexed bool, err error) {
	list, size := w.entries(n)
	parent := Inode(n.B)
	if size > linearBlocks*BlockSize {
		return true, w.indexedDir(d, parent, list)
	}
	p := packer{out: w.out}
	p.put([]byte("."), d, fswriter.ModeDir)
	p.put([]byte(".."), parent, fswriter.ModeDir)
	// In the order of inode numbers: a reader in this order reads the inode table and the
	// content sequentially too.
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(w.tree.Names.At(int(a.name)).Inode, w.tree.Names.At(int(b.name)).Inode), cmp.Compare(a.name, b.name))
	})
	for _, e := range list {
		w.putName(&p, e)
	}
	return false, p.finish()
}

// entries lists the names of a directory, in the order in which they were made, and sums
// what they take.
func (w *Writer) entries(n *fswriter.Node) (list []entry, size int) {
	names := w.tree.Children(n)
	list = make([]entry, 0, len(names))
	size = entrySize(1) + entrySize(2)
	for _, name := range names {
		e := entry{name: name, size: uint16(entrySize(len(w.tree.Spelled(name))))}
		list = append(list, e)
		size += int(e.size)
	}
	return list, size
}

func (w *Writer) putName(p *packer, e entry) (fresh bool) {
	n := w.tree.Names.At(int(e.name))
	kind := w.tree.Node(Inode(n.Inode)).Kind
	return p.put(w.tree.Text.Get(n.Text), Inode(n.Inode), kind)
}

// packer fills blocks with entries and writes them.
type packer struct {
	out   *fswriter.Stream
	block []byte
	at    int // where the next entry goes in the block
	last  int // where the one before it begins
	err   error
}

// put adds an entry and reports whether it begins a new block.
func (p *packer) put(name []byte, i Inode, kind uint16) (fresh bool) {
	n := entrySize(len(name))
	if p.block == nil || p.at+n > BlockSize {
		p.err = p.finish()
		if p.block == nil {
			p.block = make([]byte, BlockSize)
		}
		clear(p.block)
		p.at, fresh = 0, true
	}
	putEntry(p.block[p.at:], i, kind, n, name)
	p.last, p.at = p.at, p.at+n
	return fresh
}

// finish lets the last entry reach to the end of its block and writes that.
func (p *packer) finish() error {
	if p.block == nil || p.err != nil {
		return p.err
	}
	le.PutUint16(p.block[p.last+4:], uint16(BlockSize-p.last))
	return p.out.Append(p.block)
}

func putEntry(b []byte, i Inode, kind uint16, size int, name []byte) {
	le.PutUint32(b[0:], uint32(i))
	le.PutUint16(b[4:], uint16(size))
	b[6], b[7] = byte(len(name)), fswriter.FileType(kind)
	copy(b[dirEntryHeader:], name)
}

// indexedDir writes a hashed directory: a root block, at most one level of index
// blocks, then leaves in the order of the hashes. That is enough for 259,000 leaves;
// MaxFiles names fill less than 75,000.
func (w *Writer) indexedDir(d, parent Inode, list []entry) error {
	seed := w.hashSeed()
	for i := range list {
		list[i].hash = hashName(w.tree.Text.Get(w.tree.Names.At(int(list[i].name)).Text), seed)
	}
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name))
	})
	first := leaves(list)
	if err := w.putIndexes(d, parent, first); err != nil {
		return err
	}
	p := packer{out: w.out}
	for _, e := range list {
		w.putName(&p, e)
	}
	return p.finish()
}

// leaves is the lowest hash of each leaf that a packer makes of the list.
func leaves(list []entry) (first []uint32) {
	at := BlockSize
	for i, e := range list {
		if at += int(e.size); at > BlockSize {
			at = int(e.size)
			h := e.hash
			if i > 0 && list[i-1].hash == h {
				h |= 1 // names with this hash began in the leaf before
			}
			first = append(first, h)
		}
	}
	first[0] = 0
	return first
}

// putIndexes writes the root and the index blocks over leaves that follow them.
func (w *Writer) putIndexes(d, parent Inode, first []uint32) error {
	nodes := 0
	if len(first) > dxRootEntries {
		nodes = (len(first) + dxNodeEntries - 1) / dxNodeEntries
	}
	root := make([]byte, BlockSize)
	putEntry(root, d, fswriter.ModeDir, 12, []byte("."))
	putEntry(root[12:], parent, fswriter.ModeDir, BlockSize-12, []byte(".."))
	root[28], root[29] = hashHalfMD4, 8 // struct dx_root_info: hash version, its length
	leafAt := uint32(1 + nodes)         // number of the first leaf within the directory
	if nodes == 0 {
		putIndex(root[32:], dxRootEntries, first, leafAt, 1)
		return w.out.Append(root)
	}
	root[30] = 1 // levels between the root and the leaves
	var firstOfNode []uint32
	for left := first; len(left) > 0; left = left[min(len(left), dxNodeEntries):] {
		firstOfNode = append(firstOfNode, left[0])
	}
	putIndex(root[32:], dxRootEntries, firstOfNode, 1, 1)
	if err := w.out.Append(root); err != nil {
		return err
	}
	for left, at := first, leafAt; len(left) > 0; {
		n := min(len(left), dxNodeEntries)
		node := make([]byte, BlockSize)
		le.PutUint16(node[4:], BlockSize) // an empty entry, for who takes it for a list
		putIndex(node[8:], dxNodeEntries, left[:n], at, 1)
		if err := w.out.Append(node); err != nil {
			return err
		}
		left, at = left[n:], at+uint32(n)
	}
	return nil
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
