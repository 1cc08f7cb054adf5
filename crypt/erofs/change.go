package erofs

import (
	"errors"
	"slices"

	"layervault/crypt/fswriter"
)

// SetMeta changes a file, as a second entry for it does. Extended attributes that it has
// and m has not, stay, but for a file's capabilities: the kernel takes them away when the
// owner is set. Of a symbolic link only owner and attributes change.
func (w *Writer) SetMeta(i Inode, m Meta) error {
	n := w.tree.Node(i)
	kind, record := n.Kind&fswriter.ModeType, w.tree.Record(i, true)
	if kind == fswriter.ModeSymlink {
		putOwner(record, m)
	} else {
		putMeta(record, kind, m)
	}
	if n.IsDir() {
		if len(m.Xattrs) == 0 {
			return w.tree.Pages.Err
		}
		return errors.Join(w.mergeDirXattrs(i, m.Xattrs, m.Mode), w.tree.Pages.Err)
	}
	n.Kind |= fswriter.Changed
	if len(m.Xattrs) == 0 && xattrSize(record) == 0 {
		return w.tree.Pages.Err
	}
	return errors.Join(w.mergeXattrs(i, m), w.tree.Pages.Err)
}

// SetXattr sets one extended attribute of a directory.
func (w *Writer) SetXattr(d Inode, name, value string) error {
	mode := le.Uint16(w.tree.Record(d, false)[atMode:]) & 0o7777
	return errors.Join(w.mergeDirXattrs(d, map[string][]byte{name: []byte(value)}, mode), w.tree.Pages.Err)
}

// mergeDirXattrs keeps the attributes of a directory as a text until it is written.
func (w *Writer) mergeDirXattrs(i Inode, attrs map[string][]byte, mode uint16) error {
	list, err := listXattrs(attrs, fswriter.ModeDir, mode)
	if err != nil {
		return err
	}
	list = fswriter.MergeXattrs(w.dirXattrs(i), list)
	if err := checkXattrs(list, mode); err != nil {
		return err
	}
	return w.keep(i, fswriter.PackXattrs(list))
}

func (w *Writer) dirXattrs(i Inode) []fswriter.Xattr {
	at := le.Uint32(w.tree.Record(i, false)[atText:])
	if at == 0 {
		return nil
	}
	return fswriter.UnpackXattrs(w.tree.Text.Get(at))
}

// keep notes a directory's attributes, in the place of those before where they fit.
func (w *Writer) keep(i Inode, packed string) error {
	record := w.tree.Record(i, false)
	at, room := le.Uint32(record[atText:]), le.Uint16(record[atRoom:])
	if at != 0 && len(packed) <= int(room) {
		w.tree.Text.Set(at, packed)
		return nil
	}
	at, err := w.tree.Text.Add(packed)
	if err != nil {
		return err
	}
	record = w.tree.Record(i, true)
	le.PutUint32(record[atText:], at)
	le.PutUint16(record[atRoom:], uint16(len(packed)))
	return nil
}

// mergeXattrs gives more attributes to a file that is written already, and other
// permissions to its access control list.
func (w *Writer) mergeXattrs(i Inode, m Meta) error {
	n, record := w.tree.Node(i), slices.Clone(w.tree.Record(i, false))
	list, err := listXattrs(m.Xattrs, n.Kind&fswriter.ModeType, m.Mode)
	if err != nil {
		return err
	}
	var old []fswriter.Xattr
	if size := xattrSize(record); size > 0 {
		body, err := w.stored(i, inodeSize, size)
		if err != nil {
			return err
		}
		old = w.decodeXattrs(body)
	}
	before := fswriter.PackXattrs(old)
	list = fswriter.MergeXattrs(slices.DeleteFunc(old, fswriter.Xattr.IsCapability), list)
	if err := checkXattrs(list, m.Mode); err != nil {
		return err
	}
	if fswriter.PackXattrs(list) == before {
		return nil
	}
	return w.move(i, record, w.encodeXattrs(list))
}

// move places an inode anew, with other attributes. Its old place stays unused.
func (w *Writer) move(i Inode, record, attrs []byte) error {
	size, layout, old := sizeOf(record), layoutOf(record), xattrSize(record)
	rest, err := w.rest(i, record, old)
	if err != nil {
		return err
	}
	w.moved += int64(inodeSize + len(attrs) + len(rest))
	union := le.Uint32(record[atUnion:])
	if layout == layoutInline && inodeSize+len(attrs)+len(rest) > blockSize {
		// The tail has no room there any more: all blocks are to be in one piece.
		first := w.out.Block()
		if err := w.copyBlocks(union, size/blockSize); err != nil {
			return err
		}
		if err := w.out.Append(rest); err != nil {
			return err
		}
		layout, union, rest = layoutPlain, first, nil
	}
	if w.moved > MaxMoved {
		return &fswriter.LimitError{What: "bytes of files that get other attributes later", Limit: MaxMoved}
	}
	copy(w.record[:], record)
	putLayout(w.record[:], layout, size, union, len(attrs))
	w.forget(i)
	return w.place(i, attrs, rest)
}

// rest is what lies behind the attributes of an inode: a tail, or the places of chunks.
func (w *Writer) rest(i Inode, record []byte, xattrs int) ([]byte, error) {
	size := sizeOf(record)
	n := int64(0)
	switch layoutOf(record) {
	case layoutInline:
		n = size % blockSize
	case layoutChunks:
		chunk := int64(blockSize) << le.Uint32(record[atUnion:])
		n = (size + chunk - 1) / chunk * 4
	}
	if n == 0 {
		return nil, nil
	}
	return w.stored(i, inodeSize+xattrs, int(n))
}

// forget takes an inode out of the block where it waits to be written.
func (w *Writer) forget(i Inode) {
	n := w.tree.Node(i)
	setNID(n, 0)
	for _, b := range w.open {
		b.inodes = slices.DeleteFunc(b.inodes, func(p placed) bool { return p.inode == i })
	}
}

// copyBlocks appends blocks of a file once more.
func (w *Writer) copyBlocks(first uint32, count int64) error {
	w.moved += count * blockSize
	if w.moved > MaxMoved {
		return nil // an error of the caller
	}
	at := int64(first) * blockSize
	for count > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		b := fswriter.AlignedBytes(int(min(count, piece/blockSize)) * blockSize)
		if err := w.out.ReadAt(b, at); err != nil {
			return err
		}
		if err := w.out.Append(b); err != nil {
			return err
		}
		at, count = at+int64(len(b)), count-int64(len(b)/blockSize)
	}
	return nil
}
