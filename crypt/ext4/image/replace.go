package image

// begin makes an inode that is no directory, under a name that is free, and writes
// its extended attributes.
func (w *Writer) begin(parent *Inode, name string, mode uint16, m Meta) (*Inode, []byte, error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	if err := w.ctx.Err(); err != nil {
		return nil, nil, err
	}
	i := &Inode{number: w.inodes.alloc(), mode: mode, first: w.out.block()}
	record := w.inodes.record(i.number)
	if err := w.xattrs(record, m); err != nil {
		return nil, nil, err
	}
	w.attach(parent, name, i)
	return i, record, nil
}

// xattrs writes the attributes that do not fit into the inode and notes their block.
func (w *Writer) xattrs(record []byte, m Meta) error {
	block, err := placeXattrs(record, m.Xattrs, m.Mode)
	if err != nil || block == nil {
		return err
	}
	le.PutUint32(record[0x68:], w.out.block())
	return w.out.append(block)
}

// end completes the inode. Its blocks are all those since begin.
func (w *Writer) end(i *Inode, record []byte, m Meta, size int64, flags uint32) {
	i.blocks = w.out.block() - i.first
	i.size = size
	w.content += size
	putInode(record, i.mode, m, size, uint64(i.blocks)*(BlockSize/512), flags)
}

func (w *Writer) attach(parent *Inode, name string, i *Inode) {
	parent.dir.children[name] = i
	i.links++
}

// Unlink takes a name away, and with it all that is below a directory. A file without
// names is given up: its blocks become free space.
func (w *Writer) Unlink(parent *Inode, name string) {
	i := parent.dir.children[name]
	if i == nil {
		return
	}
	delete(parent.dir.children, name)
	if i.dir != nil {
		for child := range i.dir.children {
			w.Unlink(i, child)
		}
		parent.dir.subdirs--
	}
	if i.links--; i.links > 0 {
		return
	}
	w.content -= i.size
	if i.blocks > 0 {
		w.freed = append(w.freed, [2]uint32{i.first, i.blocks})
	}
	clear(w.inodes.record(i.number))
	w.gone = append(w.gone, i.number)
}
