package image

import (
	"fmt"
	"io"
	"slices"
)

// Attributes of a directory may change until the end, so they are kept as a text until
// the directory is written. These are the places in its record, where extents will be.
const (
	dirText     = blockArea     // the text, 0 for none
	dirTextRoom = blockArea + 4 // what fits there
)

// setDirXattrs keeps the attributes of a new directory.
func (w *Writer) setDirXattrs(i Inode, attrs map[string][]byte, mode uint16) error {
	if len(attrs) == 0 {
		return nil
	}
	return w.mergeDirXattrs(i, attrs, mode)
}

func (w *Writer) mergeDirXattrs(i Inode, attrs map[string][]byte, mode uint16) error {
	list, err := xattrList(attrs, modeDir)
	if err != nil {
		return err
	}
	old, err := w.dirXattrs(slices.Clone(w.record(i, false)))
	if err != nil {
		return err
	}
	list = mergeLists(old, list)
	// Whether they fit is to be known while the entry is at hand.
	if _, err := placeXattrs(make([]byte, inodeSize), list, mode); err != nil {
		return err
	}
	packed := packXattrs(list)
	record := w.record(i, false)
	at, room := le.Uint32(record[dirText:]), le.Uint16(record[dirTextRoom:])
	if at != 0 && len(packed) <= int(room) {
		w.tree.text.set(at, packed)
		return nil
	}
	if at, err = w.tree.text.add(packed); err != nil {
		return err
	}
	record = w.record(i, true)
	le.PutUint32(record[dirText:], at)
	le.PutUint16(record[dirTextRoom:], uint16(len(packed)))
	return nil
}

// dirXattrs is what a directory's record says of its attributes. The record is a copy.
func (w *Writer) dirXattrs(record []byte) ([]xattr, error) {
	at := le.Uint32(record[dirText:])
	if at == 0 {
		return nil, nil
	}
	list := unpackXattrs(w.tree.text.get(at))
	return list, w.pages.err
}

// packXattrs makes one text of a list: for each its index, the lengths of name and
// value, name and value.
func packXattrs(list []xattr) string {
	var b []byte
	for _, x := range list {
		b = append(b, x.index, uint8(len(x.name)))
		b = le.AppendUint16(b, uint16(len(x.value)))
		b = append(append(b, x.name...), x.value...)
	}
	return string(b)
}

func unpackXattrs(b []byte) (list []xattr) {
	for len(b) >= 4 {
		name, value := int(b[1]), int(le.Uint16(b[2:]))
		x := xattr{index: b[0], name: string(b[4 : 4+name]), value: slices.Clone(b[4+name : 4+name+value])}
		list, b = append(list, x), b[4+name+value:]
	}
	return list
}

// mergeXattrs gives more attributes to a file that is written already, and other
// permissions to its access control list. Where they need a block, it lies apart from the file's other blocks.
func (w *Writer) mergeXattrs(i Inode, attrs map[string][]byte, mode uint16) error {
	kind := w.tree.node(i).kind & modeType
	list, err := xattrList(attrs, kind)
	if err != nil {
		return err
	}
	record := slices.Clone(w.record(i, false))
	var old []xattr
	if area := record[inodeUsed:]; le.Uint32(area) == xattrMagic {
		old = getXattrs(area[4:], area[4:])
	}
	at := le.Uint32(record[xattrPlace:])
	block := alignedBytes(BlockSize)
	if at != 0 {
		if err := w.readBack(block, at); err != nil {
			return err
		}
		old = append(old, getXattrs(block[xattrBlockHeader:], block)...)
		slices.SortFunc(old, xattr.compare)
	}
	before := packXattrs(old)
	old = slices.DeleteFunc(old, func(x xattr) bool { return x.index == xattrSecurity && x.name == "capability" })
	list = mergeLists(old, list)
	for _, x := range list {
		if x.index == xattrACLAccess {
			fitACL(x.value, mode)
		}
	}
	if packXattrs(list) == before {
		return nil
	}
	rest, err := placeXattrs(record, list, mode)
	if err != nil {
		return err
	}
	sectors := uint64(le.Uint32(record[0x1c:])) | uint64(le.Uint16(record[0x74:]))<<32
	switch {
	case rest != nil && at != 0:
		copy(block, rest)
		if _, err := w.dst.WriteAt(block, int64(at)*BlockSize); err != nil {
			return fmt.Errorf("write file system: %w", err)
		}
	case rest != nil:
		le.PutUint32(record[xattrPlace:], w.out.block())
		if err := w.out.append(rest); err != nil {
			return err
		}
		sectors += BlockSize / 512
	case at != 0:
		le.PutUint32(record[xattrPlace:], 0)
		if err := w.free(at, 1); err != nil {
			return err
		}
		sectors -= BlockSize / 512
	}
	putSize(record, sizeOf(record), sectors, le.Uint32(record[0x20:]))
	copy(w.record(i, true), record)
	return nil
}

// readBack reads a block that was appended.
func (w *Writer) readBack(block []byte, number uint32) error {
	r, ok := w.dst.(io.ReaderAt)
	if !ok {
		return errNotReadable
	}
	if err := w.out.settle(); err != nil {
		return err
	}
	if _, err := r.ReadAt(block, int64(number)*BlockSize); err != nil {
		return fmt.Errorf("read file system back: %w", err)
	}
	return nil
}
