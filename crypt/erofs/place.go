package erofs

import (
	"slices"

	"layervault/crypt/fswriter"
)

// openBlocks is how many blocks of inodes are filled at the same time: an inode goes
// where it leaves the least room. With one block alone a tenth of the room was left.
const openBlocks = 12

// inodeBlock is a block of inodes that is being filled.
type inodeBlock struct {
	data   []byte
	n      int // bytes in use
	inodes []placed
}

// placed says where in the block an inode lies.
type placed struct {
	inode Inode
	at    int
}

// take finds room for an inode of size bytes, at most a block.
func (w *Writer) take(i Inode, size int) ([]byte, error) {
	size = (size + slot - 1) &^ (slot - 1)
	var best, fullest *inodeBlock
	for _, b := range w.open {
		if left := blockSize - b.n; left >= size && (best == nil || b.n > best.n) {
			best = b
		}
		if fullest == nil || b.n > fullest.n {
			fullest = b
		}
	}
	switch {
	case best != nil:
	case len(w.open) < openBlocks:
		best = &inodeBlock{data: make([]byte, blockSize)}
		w.open = append(w.open, best)
	default:
		if err := w.writeInodes(fullest); err != nil {
			return nil, err
		}
		best = fullest
	}
	at := best.n
	best.n += size
	best.inodes = append(best.inodes, placed{i, at})
	return best.data[at:best.n], nil
}

// writeInodes appends a block of inodes, as they are now, and empties it.
func (w *Writer) writeInodes(b *inodeBlock) error {
	number := int64(w.out.Block())
	for _, p := range b.inodes {
		n := w.tree.Node(p.inode)
		w.putInode(b.data[p.at:], p.inode, n)
		setNID(n, (number*blockSize+int64(p.at))/slot)
	}
	err := w.out.Append(b.data)
	clear(b.data)
	b.n, b.inodes = 0, b.inodes[:0]
	return err
}

// putInode writes an inode as it is now.
func (w *Writer) putInode(b []byte, i Inode, n *fswriter.Node) {
	copy(b[:coreSize], w.tree.Record(i, false))
	clear(b[coreSize:inodeSize])
	le.PutUint32(b[atNlink:], n.Links)
	n.B, n.Kind = n.Links, n.Kind&^fswriter.Changed
}

// setNID notes the number under which the kernel finds a file that is no directory, of
// 35 bits for 1 TiB, and is 0 as long as the inode is not written.
func setNID(n *fswriter.Node, nid int64) { n.A, n.Depth = uint32(nid), uint16(nid>>32) }

// nid is that number, also of a directory when directories are being written.
func nid(n *fswriter.Node) int64 {
	if n.IsDir() {
		return int64(n.Links) | int64(n.Depth)<<32
	}
	return int64(n.A) | int64(n.Depth)<<32
}

// place writes an inode, of which w.record is the core, its attributes, and what follows
// them. More than a block gets blocks of its own.
func (w *Writer) place(i Inode, attrs, rest []byte) error {
	size := inodeSize + len(attrs) + len(rest)
	copy(w.tree.Record(i, true), w.record[:])
	if size <= blockSize {
		b, err := w.take(i, size)
		if err != nil {
			return err
		}
		copy(b[inodeSize:], attrs)
		copy(b[inodeSize+len(attrs):], rest)
		return nil
	}
	n := w.tree.Node(i)
	b := slices.Concat(make([]byte, inodeSize), attrs, rest)
	w.putInode(b, i, n)
	setNID(n, int64(w.out.Block())*(blockSize/slot))
	return w.out.Append(b)
}

// stored is size bytes of an inode that is placed, from offset on.
func (w *Writer) stored(i Inode, offset, size int) ([]byte, error) {
	at := nid(w.tree.Node(i))*slot + int64(offset)
	if at == int64(offset) {
		for _, b := range w.open {
			for _, p := range b.inodes {
				if p.inode == i {
					return slices.Clone(b.data[p.at+offset : p.at+offset+size]), nil
				}
			}
		}
	}
	first := at &^ (blockSize - 1)
	blocks := fswriter.AlignedBytes(int(at+int64(size)-first+blockSize-1) &^ (blockSize - 1))
	if err := w.out.ReadAt(blocks, first); err != nil {
		return nil, err
	}
	return blocks[at-first:][:size], nil
}
