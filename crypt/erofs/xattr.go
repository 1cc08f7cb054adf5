package erofs

import (
	"fmt"
	"hash/maphash"
	"slices"

	"layervault/crypt/fswriter"
)

// maxXattrs bounds the attributes of one file in bytes. EROFS has room for 256 KiB; ext4,
// which is what other hosts have, for a block and a little more.
const maxXattrs = 2 * blockSize

// maxShared bounds the bytes of attributes that are kept to be shared, and seenXattrs how
// many are remembered until they come again.
const (
	maxShared  = 64 << 10
	seenXattrs = 1 << 10
)

// sharedXattrs are attributes that came a second time. Files refer to them by 4 bytes.
// The first file keeps its own: what comes once needs no table.
type sharedXattrs struct {
	area []byte
	at   map[string]uint32
	seen []uint64
	seed maphash.Seed
}

// number finds a shared entry.
func (s *sharedXattrs) number(entry []byte) (uint32, bool) {
	if at, ok := s.at[string(entry)]; ok {
		return at, true
	}
	if s.seen == nil {
		s.seen, s.at, s.seed = make([]uint64, seenXattrs), map[string]uint32{}, maphash.MakeSeed()
	}
	h := maphash.Bytes(s.seed, entry)
	if slot := &s.seen[h%seenXattrs]; *slot != h {
		*slot = h
		return 0, false
	}
	if len(s.area)+len(entry) > maxShared {
		return 0, false
	}
	at := uint32(len(s.area) / sharedXattrsUnit)
	s.area, s.at[string(entry)] = append(s.area, entry...), at
	return at, true
}

// listXattrs sorts attributes. An access control list keeps the form of getxattr.
func listXattrs(attrs map[string][]byte, kind, mode uint16) ([]fswriter.Xattr, error) {
	list, err := fswriter.ListXattrs(attrs, kind, slices.Clone[[]byte])
	if err != nil {
		return nil, err
	}
	return list, checkXattrs(list, mode)
}

// checkXattrs fits access control lists to the mode, and wants the list to have room.
func checkXattrs(list []fswriter.Xattr, mode uint16) error {
	total := xattrHeaderSize
	for _, x := range list {
		if x.Index == fswriter.XattrACLAccess {
			fswriter.FitACL(x.Value, mode, false)
		}
		if total += entrySize(x); total > maxXattrs {
			return fmt.Errorf("%w: %s, %d bytes", fswriter.ErrXattr, x.Name, len(x.Value))
		}
	}
	if len(list) > fswriter.MaxXattrs {
		return &fswriter.LimitError{What: "extended attributes of one file", Limit: fswriter.MaxXattrs}
	}
	return nil
}

func entrySize(x fswriter.Xattr) int { return (xattrEntrySize + len(x.Name) + len(x.Value) + 3) &^ 3 }

// encodeXattrs makes what follows the inode: a header, numbers of shared attributes,
// then the others.
func (w *Writer) encodeXattrs(list []fswriter.Xattr) []byte {
	if len(list) == 0 {
		return nil
	}
	out, own := make([]byte, xattrHeaderSize), []byte(nil)
	for _, x := range list {
		entry := append([]byte{uint8(len(x.Name)), x.Index}, 0, 0)
		le.PutUint16(entry[2:], uint16(len(x.Value)))
		entry = append(append(entry, x.Name...), x.Value...)
		entry = append(entry, make([]byte, entrySize(x)-len(entry))...)
		if at, ok := w.shared.number(entry); ok {
			out = le.AppendUint32(out, at)
		} else {
			own = append(own, entry...)
		}
	}
	out[4] = uint8((len(out) - xattrHeaderSize) / 4)
	return append(out, own...)
}

// decodeXattrs reads what encodeXattrs made, and sorts it.
func (w *Writer) decodeXattrs(b []byte) (list []fswriter.Xattr) {
	if len(b) == 0 {
		return nil
	}
	entry := func(b []byte) int {
		name, value := int(b[0]), int(le.Uint16(b[2:]))
		x := fswriter.Xattr{Index: b[1], Name: string(b[xattrEntrySize:][:name]), Value: slices.Clone(b[xattrEntrySize+name:][:value])}
		list = append(list, x)
		return entrySize(x)
	}
	count := int(b[4])
	b = b[xattrHeaderSize:]
	for ; count > 0; count-- {
		entry(w.shared.area[le.Uint32(b)*sharedXattrsUnit:])
		b = b[4:]
	}
	for len(b) > 0 {
		b = b[entry(b):]
	}
	slices.SortFunc(list, fswriter.Xattr.Compare)
	return list
}
