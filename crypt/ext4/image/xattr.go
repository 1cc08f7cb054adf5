package image

import (
	"cmp"
	"fmt"
	"slices"

	"layervault/crypt/fswriter"
)

const (
	xattrMagic       = 0xea020000
	xattrEntryHeader = 16
	xattrBlockHeader = 32
	xattrInInode     = inodeSize - inodeUsed
)

type xattr = fswriter.Xattr

func xattrSize(x xattr) int { return xattrEntrySize(x) + (len(x.Value)+3)&^3 }

func xattrEntrySize(x xattr) int { return xattrEntryHeader + (len(x.Name)+3)&^3 }

// xattrList turns attributes into ext4's form.
func xattrList(attrs map[string][]byte, kind uint16) ([]xattr, error) {
	return fswriter.ListXattrs(attrs, kind, diskACL)
}

// placeXattrs puts what fits into the inode record and returns the block that holds
// the rest, nil where there is none.
func placeXattrs(record []byte, list []xattr, mode uint16) (block []byte, err error) {
	var inside, outside []xattr
	insideLeft, outsideLeft := xattrInInode-4-4, BlockSize-xattrBlockHeader-4 // 4: the zero that ends a list
	for _, x := range list {
		if x.Index == fswriter.XattrACLAccess {
			fswriter.FitACL(x.Value, mode, true)
		}
		switch n := xattrSize(x); {
		case n <= insideLeft:
			inside, insideLeft = append(inside, x), insideLeft-n
		case n <= outsideLeft:
			outside, outsideLeft = append(outside, x), outsideLeft-n
		default:
			return nil, fmt.Errorf("%w: %s, %d bytes", fswriter.ErrXattr, x.Name, len(x.Value))
		}
	}
	clear(record[inodeUsed:])
	if len(inside) > 0 {
		area := record[inodeUsed:]
		le.PutUint32(area, xattrMagic)
		putXattrs(area[4:], area[4:], inside, false)
	}
	if len(outside) == 0 {
		return nil, nil
	}
	// The kernel stops searching a block at the first entry that sorts after the one it
	// looks for.
	slices.SortFunc(outside, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	block = make([]byte, BlockSize)
	le.PutUint32(block[0:], xattrMagic)
	le.PutUint32(block[4:], 1) // files that share it
	le.PutUint32(block[8:], 1) // blocks
	putXattrs(block[xattrBlockHeader:], block, outside, true)
	return block, nil
}

// putXattrs writes entries from the beginning of area on and values from its end
// down; offsets of values count from the beginning of base, which ends with area.
func putXattrs(area, base []byte, list []xattr, hashed bool) {
	at, end := 0, len(base)
	for _, x := range list {
		e := area[at:]
		at += xattrEntrySize(x)
		end -= (len(x.Value) + 3) &^ 3
		copy(base[end:], x.Value)
		e[0], e[1] = uint8(len(x.Name)), x.Index
		if len(x.Value) > 0 {
			le.PutUint16(e[2:], uint16(end))
		}
		le.PutUint32(e[8:], uint32(len(x.Value)))
		if hashed {
			le.PutUint32(e[12:], hashXattr(x))
		}
		copy(e[xattrEntryHeader:], x.Name)
	}
}

// getXattrs reads what putXattrs wrote.
func getXattrs(area, base []byte) (list []xattr) {
	for at := 0; at+xattrEntryHeader <= len(area) && le.Uint32(area[at:]) != 0; {
		e := area[at:]
		x := xattr{Index: e[1], Name: string(e[xattrEntryHeader : xattrEntryHeader+int(e[0])])}
		if n := int(le.Uint32(e[8:])); n > 0 {
			begin := int(le.Uint16(e[2:]))
			x.Value = slices.Clone(base[begin : begin+n])
		}
		list = append(list, x)
		at += xattrEntrySize(x)
	}
	return list
}

// hashXattr is ext4_xattr_hash_entry.
func hashXattr(x xattr) uint32 {
	var h uint32
	for i := range len(x.Name) {
		h = h<<5 ^ h>>27 ^ uint32(x.Name[i])
	}
	var padded [4]byte
	for v := x.Value; len(v) > 0; v = v[min(4, len(v)):] {
		padded = [4]byte{}
		copy(padded[:], v)
		h = h<<16 ^ h>>16 ^ le.Uint32(padded[:])
	}
	return h
}

// diskACL turns a POSIX ACL from the form of getxattr (version 2, 8 bytes an entry)
// into that of ext4 (version 1, an id only where there is one).
func diskACL(v []byte) []byte {
	const versionDisk = 1
	out := le.AppendUint32(nil, versionDisk)
	for e := v[4:]; len(e) > 0; e = e[8:] {
		tag := le.Uint16(e)
		out = le.AppendUint16(out, tag)
		out = le.AppendUint16(out, le.Uint16(e[2:])&7)
		if tag == fswriter.ACLTagUser || tag == fswriter.ACLTagGroup {
			out = append(out, e[4:8]...)
		}
	}
	return out
}
