package image

import (
	"fmt"
	"slices"

	"layervault/crypt/fswriter"
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
	list, err := xattrList(attrs, fswriter.ModeDir)
	if err != nil {
		return err
	}
	old, err := w.dirXattrs(slices.Clone(w.tree.Record(i, false)))
	if err != nil {
		return err
	}
	list = fswriter.MergeXattrs(old, list)
	// Whether they fit is to be known while the entry is at hand.
	if _, err := placeXattrs(make([]byte, inodeSize), list, mode); err != nil {
		return err
	}
	packed := fswriter.PackXattrs(list)
	record := w.tree.Record(i, false)
	at, room := le.Uint32(record[dirText:]), le.Uint16(record[dirTextRoom:])
	if at != 0 && len(packed) <= int(room) {
		w.tree.Text.Set(at, packed)
		return nil
	}
	if at, err = w.tree.Text.Add(packed); err != nil {
		return err
	}
	record = w.tree.Record(i, true)
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
	list := fswriter.UnpackXattrs(w.tree.Text.Get(at))
	return list, w.tree.Pages.Err
}

// mergeXattrs gives more attributes to a file that is written already, and other
// permissions to its access control list. Where they need a block, it lies apart from the file's other blocks.
func (w *Writer) mergeXattrs(i Inode, attrs map[string][]byte, mode uint16) error {
	kind := w.tree.Node(i).Kind & fswriter.ModeType
	list, err := xattrList(attrs, kind)
	if err != nil {
		return err
	}
	record := slices.Clone(w.tree.Record(i, false))
	var old []xattr
	if area := record[inodeUsed:]; le.Uint32(area) == xattrMagic {
		old = getXattrs(area[4:], area[4:])
	}
	at := le.Uint32(record[xattrPlace:])
	block := fswriter.AlignedBytes(BlockSize)
	if at != 0 {
		if err := w.out.ReadAt(block, int64(at)*BlockSize); err != nil {
			return err
		}
		old = append(old, getXattrs(block[xattrBlockHeader:], block)...)
		slices.SortFunc(old, xattr.Compare)
	}
	before := fswriter.PackXattrs(old)
	old = slices.DeleteFunc(old, xattr.IsCapability)
	list = fswriter.MergeXattrs(old, list)
	for _, x := range list {
		if x.Index == fswriter.XattrACLAccess {
			fswriter.FitACL(x.Value, mode, true)
		}
	}
	if fswriter.PackXattrs(list) == before {
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
		le.PutUint32(record[xattrPlace:], w.out.Block())
		if err := w.out.Append(rest); err != nil {
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
	copy(w.tree.Record(i, true), record)
	return nil
}
