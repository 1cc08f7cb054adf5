package image

import "layervault/crypt/fswriter"

// begin makes an inode that is no directory, under a name that is free, and writes
// its extended attributes. Its record is put in its place by end.
func (w *Writer) begin(parent Inode, name string, mode uint16, m Meta) (Inode, []byte, error) {
	if err := w.ready(name); err != nil {
		return 0, nil, err
	}
	i, err := w.tree.Alloc(mode)
	if err != nil {
		return 0, nil, err
	}
	n := w.tree.Node(i)
	n.A, n.Links = w.out.Block(), 1
	record := w.buffer[:]
	clear(record)
	if len(m.Xattrs) > 0 {
		list, err := xattrList(m.Xattrs, mode)
		if err == nil {
			err = w.putXattrs(record, list, m.Mode)
		}
		if err != nil {
			return 0, nil, err
		}
	}
	return i, record, w.tree.Attach(parent, name, i)
}

// putXattrs writes the attributes that do not fit into the inode and notes their block.
func (w *Writer) putXattrs(record []byte, list []xattr, mode uint16) error {
	block, err := placeXattrs(record, list, mode)
	if err != nil || block == nil {
		return err
	}
	le.PutUint32(record[xattrPlace:], w.out.Block())
	return w.out.Append(block)
}

// end completes the inode. Its blocks are all those since begin.
func (w *Writer) end(i Inode, record []byte, m Meta, size int64, flags uint32) error {
	n := w.tree.Node(i)
	n.B = w.out.Block() - n.A
	w.content += size
	putInode(record, n.Kind&fswriter.ModeType, m, size, uint64(n.B)*(BlockSize/512), flags)
	copy(w.tree.Record(i, true), record)
	return w.tree.Pages.Err
}

// Unlink takes a name away, and with it all that is below a directory. A file without
// names is given up: its blocks become free space.
func (w *Writer) Unlink(parent Inode, name string) error {
	return w.tree.Unlink(w.ctx, parent, name, w.giveUp)
}

func (w *Writer) giveUp(i Inode) error {
	n, record := w.tree.Node(i), w.tree.Record(i, true)
	w.content -= sizeOf(record)
	attrs := le.Uint32(record[xattrPlace:])
	clear(record)
	if attrs != 0 && attrs-n.A >= n.B { // added later, elsewhere
		if err := w.free(attrs, 1); err != nil {
			return err
		}
	}
	return w.free(n.A, n.B)
}

func (w *Writer) free(first, count uint32) error {
	if count == 0 {
		return nil
	}
	if n := len(w.freed); n > 0 && w.freed[n-1][0]+w.freed[n-1][1] == first {
		w.freed[n-1][1] += count
		return nil
	}
	if len(w.freed) >= MaxReplaced {
		return &fswriter.LimitError{What: "pieces of space left by replaced files", Limit: MaxReplaced}
	}
	w.freed = append(w.freed, [2]uint32{first, count})
	return nil
}
