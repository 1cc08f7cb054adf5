package image

import "errors"

// begin makes an inode that is no directory, under a name that is free, and writes
// its extended attributes. Its record is put in its place by end.
func (w *Writer) begin(parent Inode, name string, mode uint16, m Meta) (Inode, []byte, error) {
	if err := w.ready(name); err != nil {
		return 0, nil, err
	}
	i, err := w.tree.alloc(mode)
	if err != nil {
		return 0, nil, err
	}
	n := w.tree.node(i)
	n.a, n.links = w.out.block(), 1
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
	return i, record, w.tree.attach(parent, name, i)
}

// putXattrs writes the attributes that do not fit into the inode and notes their block.
func (w *Writer) putXattrs(record []byte, list []xattr, mode uint16) error {
	block, err := placeXattrs(record, list, mode)
	if err != nil || block == nil {
		return err
	}
	le.PutUint32(record[xattrPlace:], w.out.block())
	return w.out.append(block)
}

// end completes the inode. Its blocks are all those since begin.
func (w *Writer) end(i Inode, record []byte, m Meta, size int64, flags uint32) error {
	n := w.tree.node(i)
	n.b = w.out.block() - n.a
	w.content += size
	putInode(record, n.kind&modeType, m, size, uint64(n.b)*(BlockSize/512), flags)
	copy(w.record(i, true), record)
	return w.pages.err
}

// Unlink takes a name away, and with it all that is below a directory. A file without
// names is given up: its blocks become free space.
func (w *Writer) Unlink(parent Inode, name string) error {
	number, _ := w.tree.find(parent, name)
	if number == 0 || w.tree.names.at(int(number)).inode == 0 {
		return w.pages.err
	}
	if w.IsDir(Inode(w.tree.names.at(int(number)).inode)) {
		w.tree.node(parent).links--
	}
	return errors.Join(w.drop(number), w.pages.err)
}

// drop gives up what a name names. It calls itself for what lies below, so at most
// MaxDepth deep.
func (w *Writer) drop(number uint32) error {
	e := w.tree.names.at(int(number))
	i := Inode(e.inode)
	if i == 0 {
		return nil
	}
	e.inode = 0
	n := w.tree.node(i)
	if n.isDir() {
		n.kind |= isGone
		if err := w.ctx.Err(); err != nil {
			return err
		}
		for child := n.a; child != 0; child = w.tree.names.at(int(child)).next {
			if err := w.drop(child); err != nil {
				return err
			}
		}
		return nil
	}
	if n.links--; n.links > 0 {
		return nil
	}
	n.kind |= isGone
	record := w.record(i, true)
	w.content -= sizeOf(record)
	attrs := le.Uint32(record[xattrPlace:])
	clear(record)
	if attrs != 0 && attrs-n.a >= n.b { // added later, elsewhere
		if err := w.free(attrs, 1); err != nil {
			return err
		}
	}
	return w.free(n.a, n.b)
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
		return &LimitError{"pieces of space left by replaced files", MaxReplaced}
	}
	w.freed = append(w.freed, [2]uint32{first, count})
	return nil
}
