package image

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
	head := alignedBytes((1 + len(w.layout.descs)) * BlockSize)
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
	return w.out.close()
}

// layout is what finish found out.
type layout struct {
	super superblock
	descs [][]byte // blocks of group descriptors
}

func (w *Writer) finish() error {
	if err := w.writeDirs(w.root); err != nil {
		return err
	}
	used := w.out.block() // blocks up to here: descriptors, content, directories
	groups, perGroup := fit(used, w.inodes.count)
	if int64(groups)*groupBlocks*BlockSize > MaxSize {
		return ErrTooBig
	}
	tableAt := w.out.block()
	if err := w.writeTable(groups * perGroup); err != nil {
		return err
	}
	bitmapAt := w.out.block()
	end := bitmapAt + 2*groups
	total := max(end, (groups-1)*groupBlocks+1)

	blockMap := w.blockMap(groups, end, total)
	inodeMap := w.inodeMap(groups, perGroup)
	dirs := w.dirsPerGroup(groups, perGroup)
	descs := make([]byte, (groups+descsPerBlock-1)/descsPerBlock*BlockSize)
	w.layout.super = superblock{
		inodes: groups * perGroup, blocks: total, inodesPerGroup: perGroup,
		created: uint32(w.now.Unix()), uuid: w.uuid, hashSeed: w.seed, label: w.label,
	}
	for g := range groups {
		blocks := blockMap[g*BlockSize : (g+1)*BlockSize]
		inodes := inodeMap[g*BlockSize : (g+1)*BlockSize]
		d := descriptor{
			blockBitmap: bitmapAt + 2*g,
			inodeBitmap: bitmapAt + 2*g + 1,
			inodeTable:  tableAt + g*perGroup/inodesPerBlock,
			freeBlocks:  zeroBits(blocks),
			freeInodes:  zeroBits(inodes),
			dirs:        dirs[g],
		}
		d.encode(descs[g*descSize:])
		w.layout.super.freeBlocks += uint32(d.freeBlocks)
		w.layout.super.freeInodes += uint32(d.freeInodes)
		if err := w.out.append(blocks); err != nil {
			return err
		}
		if err := w.out.append(inodes); err != nil {
			return err
		}
	}
	for ; len(descs) > 0; descs = descs[BlockSize:] {
		w.layout.descs = append(w.layout.descs, descs[:BlockSize])
	}
	return nil
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

// writeDirs writes a directory and all below it.
func (w *Writer) writeDirs(d *Inode) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	record := w.inodes.record(d.number)
	first := w.out.block()
	if err := w.xattrs(record, d.dir.meta); err != nil {
		return err
	}
	blocks, indexed := dirBlocks(d, w.hashSeed())
	var extents []extent
	for i, b := range blocks {
		extents = appendExtent(extents, extent{uint32(i), w.out.block(), 1})
		if err := w.out.append(b); err != nil {
			return err
		}
	}
	if err := extentTree(w.out, record[0x28:], extents); err != nil {
		return err
	}
	flags := uint32(flagExtents)
	if indexed {
		flags |= flagDirIndex
	}
	sectors := uint64(w.out.block()-first) * (BlockSize / 512)
	putInode(record, modeDir, d.dir.meta, int64(len(blocks))*BlockSize, sectors, flags)
	d.links = 2 + d.dir.subdirs // its name, its own ".", every child's ".."
	w.dirs = append(w.dirs, d.number)
	for _, name := range sortedNames(d) {
		child := d.dir.children[name]
		if child.dir == nil {
			putLinks(w.inodes.record(child.number), child.links)
			continue
		}
		if err := w.writeDirs(child); err != nil {
			return err
		}
	}
	putLinks(record, d.links)
	return nil
}

func (w *Writer) hashSeed() (words [4]uint32) {
	for i := range words {
		words[i] = le.Uint32(w.seed[i*4:])
	}
	return words
}

// writeTable writes the inode table; what is beyond the last inode is zero.
func (w *Writer) writeTable(total uint32) error {
	left := int(total) * inodeSize
	for _, c := range w.inodes.chunks {
		c = c[:min(len(c), left)]
		if err := w.out.append(c); err != nil {
			return err
		}
		left -= len(c)
	}
	return w.out.append(make([]byte, left))
}
