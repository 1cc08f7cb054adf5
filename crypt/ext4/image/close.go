package image

import (
	"cmp"
	"slices"

	"layervault/crypt/fswriter"
)

// Close writes all that is known only now and returns the size of the file system in
// bytes: dst may be cut off there. It does not sync.
func (w *Writer) Close() (size int64, err error) {
	err = w.finish()
	if closeErr := w.stop(); err == nil {
		err = closeErr
	}
	if err != nil {
		return 0, err
	}
	// The stream is on dst now. Group descriptors and superblock make it a file system.
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	head := fswriter.AlignedBytes((1 + len(w.layout.descs)) * BlockSize)
	copy(head, w.layout.super.encode())
	for i, block := range w.layout.descs {
		copy(head[(1+i)*BlockSize:], block)
	}
	if _, err := w.dst.WriteAt(head, 0); err != nil {
		return 0, err
	}
	return int64(w.layout.super.blocks) * BlockSize, nil
}

// Abort ends the writer's goroutines; what it wrote is no file system.
func (w *Writer) Abort() { _ = w.stop() }

func (w *Writer) stop() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.out.Close()
	w.tree.Memory.Free()
	w.err = fswriter.ErrClosed
	return err
}

// layout is what finish found out.
type layout struct {
	super superblock
	descs [][]byte // blocks of group descriptors
}

func (w *Writer) finish() error {
	if w.err != nil {
		return w.err
	}
	if err := w.writeDirs(); err != nil {
		return err
	}
	used := w.out.Block() // blocks up to here: descriptors, content, directories
	count := uint32(w.tree.Nodes.Len())
	groups, perGroup := fit(used, count)
	if int64(groups)*groupBlocks*BlockSize > fswriter.MaxSize {
		return fswriter.ErrTooBig
	}
	tableAt := w.out.Block()
	if err := w.writeTable(int(groups * perGroup)); err != nil {
		return err
	}
	bitmapAt := w.out.Block()
	end := bitmapAt + 2*groups
	total := max(end, (groups-1)*groupBlocks+1)
	slices.SortFunc(w.freed, func(a, b [2]uint32) int { return cmp.Compare(a[0], b[0]) })

	blocks, inodes := make([]byte, BlockSize), make([]byte, BlockSize)
	descs := make([]byte, (groups+descsPerBlock-1)/descsPerBlock*BlockSize)
	w.layout.super = superblock{
		inodes: groups * perGroup, blocks: total, inodesPerGroup: perGroup,
		created: uint32(w.now.Unix()), uuid: w.uuid, hashSeed: w.seed, label: w.label,
	}
	for g := range groups {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		w.blockMap(blocks, g, groups, end, total)
		dirs := w.inodeMap(inodes, g, perGroup)
		d := descriptor{
			blockBitmap: bitmapAt + 2*g,
			inodeBitmap: bitmapAt + 2*g + 1,
			inodeTable:  tableAt + g*perGroup/inodesPerBlock,
			freeBlocks:  zeroBits(blocks),
			freeInodes:  zeroBits(inodes),
			dirs:        dirs,
		}
		d.encode(descs[g*descSize:])
		w.layout.super.freeBlocks += uint32(d.freeBlocks)
		w.layout.super.freeInodes += uint32(d.freeInodes)
		if err := w.out.Append(blocks); err != nil {
			return err
		}
		if err := w.out.Append(inodes); err != nil {
			return err
		}
	}
	for ; len(descs) > 0; descs = descs[BlockSize:] {
		w.layout.descs = append(w.layout.descs, descs[:BlockSize])
	}
	return w.tree.Pages.Err
}

// fit finds the fewest block groups that hold the used blocks, their own tables and
// bitmaps, and the inodes.
func fit(used, inodes uint32) (groups, inodesPerGroup uint32) {
	for groups = 1; ; groups++ {
		inodesPerGroup = (inodes + groups - 1) / groups
		inodesPerGroup = (inodesPerGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
		if inodesPerGroup > groupMaxInodes {
			continue
		}
		need := uint64(used) + uint64(groups)*uint64(inodesPerGroup/inodesPerBlock+2)
		if need <= uint64(groups)*groupBlocks {
			return groups, inodesPerGroup
		}
	}
}

// writeDirs writes the content of all directories, in the order in which they came.
func (w *Writer) writeDirs() error {
	for i := Inode(1); int(i) <= w.tree.Nodes.Len(); i++ {
		n := w.tree.Node(i)
		if !n.IsDir() || n.Kind&fswriter.Gone != 0 {
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.writeDir(i, n); err != nil {
			return err
		}
	}
	return w.tree.Pages.Err
}

func (w *Writer) writeDir(i Inode, n *fswriter.Node) error {
	record := w.buffer[:]
	copy(record, w.tree.Record(i, false))
	list, err := w.dirXattrs(record)
	if err != nil {
		return err
	}
	clear(record[blockArea : blockArea+60])
	first := w.out.Block()
	if err := w.putXattrs(record, list, le.Uint16(record)&0o7777); err != nil {
		return err
	}
	at := w.out.Block()
	indexed, err := w.dirBlocks(i, n)
	if err != nil {
		return err
	}
	blocks := w.out.Block() - at
	if err := extentTree(w.out, record[blockArea:], appendExtent(nil, extent{0, at, blocks})); err != nil {
		return err
	}
	flags := uint32(flagExtents)
	if indexed {
		flags |= flagDirIndex
	}
	putSize(record, int64(blocks)*BlockSize, uint64(w.out.Block()-first)*(BlockSize/512), flags)
	n.Links += 2 // its name and its own "."; every child's ".." is counted
	copy(w.tree.Record(i, true), record)
	return nil
}

func (w *Writer) hashSeed() (words [4]uint32) {
	for i := range words {
		words[i] = le.Uint32(w.seed[i*4:])
	}
	return words
}

// writeTable writes the inode table; what is beyond the last inode is zero.
func (w *Writer) writeTable(total int) error {
	block := make([]byte, BlockSize)
	for at := 0; at < w.tree.Nodes.Len(); at += inodesPerBlock {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		clear(block)
		for k := range min(inodesPerBlock, w.tree.Nodes.Len()-at) {
			record := block[k*inodeSize : (k+1)*inodeSize]
			copy(record, w.tree.Record(Inode(at+k+1), false))
			if n := w.tree.Nodes.At(at + k); n.Kind&fswriter.Gone == 0 {
				putLinks(record, n.Links)
			} else {
				clear(record)
			}
		}
		if err := w.out.Append(block); err != nil {
			return err
		}
		total -= inodesPerBlock
	}
	if w.tree.Pages.Err != nil {
		return w.tree.Pages.Err
	}
	return w.out.AppendZeros(total * inodeSize)
}
