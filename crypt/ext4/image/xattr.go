package image

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	xattrMagic       = 0xea020000
	xattrEntryHeader = 16
	xattrBlockHeader = 32
	xattrInInode     = inodeSize - inodeUsed
)

// The numbers that stand for a prefix of the name.
const (
	xattrUser       = 1
	xattrACLAccess  = 2
	xattrACLDefault = 3
	xattrTrusted    = 4
	xattrSecurity   = 6
)

// xattr is an attribute as ext4 keeps it.
type xattr struct {
	index uint8
	name  string // what follows the prefix
	value []byte
}

func (x xattr) compare(y xattr) int {
	return cmp.Or(cmp.Compare(x.index, y.index), cmp.Compare(x.name, y.name))
}

func (x xattr) size() int { return x.entrySize() + (len(x.value)+3)&^3 }

func (x xattr) entrySize() int { return xattrEntryHeader + (len(x.name)+3)&^3 }

// HasXattrNamespace tells whether ext4 can hold an attribute of that name. The kernel
// refuses the others with EOPNOTSUPP.
func HasXattrNamespace(name string) bool {
	index, rest := splitXattr(name)
	return index == xattrACLAccess || index == xattrACLDefault || index != 0 && rest != ""
}

func splitXattr(name string) (index uint8, rest string) {
	switch name {
	case "system.posix_acl_access":
		return xattrACLAccess, ""
	case "system.posix_acl_default":
		return xattrACLDefault, ""
	}
	prefix, rest, _ := strings.Cut(name, ".")
	switch prefix {
	case "user":
		return xattrUser, rest
	case "trusted":
		return xattrTrusted, rest
	case "security":
		return xattrSecurity, rest
	}
	return 0, name
}

// xattrList sorts attributes and turns them into ext4's form. Those that the kernel
// allows no file of this kind are left out, as by docker: user.* on what is neither a
// file nor a directory, access control lists of symbolic links, default ones of anything
// but directories.
func xattrList(attrs map[string][]byte, kind uint16) ([]xattr, error) {
	if len(attrs) > MaxXattrs {
		return nil, &LimitError{"extended attributes of one file", MaxXattrs}
	}
	list := make([]xattr, 0, len(attrs))
	for name, value := range attrs {
		x := xattr{value: value}
		x.index, x.name = splitXattr(name)
		if x.index == 0 || len(x.name) > maxName {
			return nil, fmt.Errorf("%w: name %.300q", ErrXattr, name)
		}
		if x.size() > BlockSize {
			return nil, fmt.Errorf("%w: %s, %d bytes", ErrXattr, name, len(value))
		}
		switch x.index {
		case xattrUser:
			if kind != modeRegular && kind != modeDir {
				continue
			}
		case xattrACLAccess, xattrACLDefault:
			var err error
			if x.value, err = diskACL(value, x.index); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if kind == modeSymlink || x.index == xattrACLDefault && kind != modeDir || x.value == nil {
				continue
			}
		}
		list = append(list, x)
	}
	slices.SortFunc(list, xattr.compare)
	return list, nil
}

// mergeLists adds b to a, both sorted; where both have a name, that of b counts.
func mergeLists(a, b []xattr) []xattr {
	all := make([]xattr, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].compare(b[0]); {
		case c < 0:
			all, a = append(all, a[0]), a[1:]
		case c == 0:
			a = a[1:]
		default:
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}

// placeXattrs puts what fits into the inode record and returns the block that holds
// the rest, nil where there is none.
func placeXattrs(record []byte, list []xattr, mode uint16) (block []byte, err error) {
	var inside, outside []xattr
	insideLeft, outsideLeft := xattrInInode-4-4, BlockSize-xattrBlockHeader-4 // 4: the zero that ends a list
	for _, x := range list {
		if x.index == xattrACLAccess {
			fitACL(x.value, mode)
		}
		switch n := x.size(); {
		case n <= insideLeft:
			inside, insideLeft = append(inside, x), insideLeft-n
		case n <= outsideLeft:
			outside, outsideLeft = append(outside, x), outsideLeft-n
		default:
			return nil, fmt.Errorf("%w: %s, %d bytes", ErrXattr, x.name, len(x.value))
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
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
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
		at += x.entrySize()
		end -= (len(x.value) + 3) &^ 3
		copy(base[end:], x.value)
		e[0], e[1] = uint8(len(x.name)), x.index
		if len(x.value) > 0 {
			le.PutUint16(e[2:], uint16(end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		if hashed {
			le.PutUint32(e[12:], hashXattr(x))
		}
		copy(e[xattrEntryHeader:], x.name)
	}
}

// getXattrs reads what putXattrs wrote.
func getXattrs(area, base []byte) (list []xattr) {
	for at := 0; at+xattrEntryHeader <= len(area) && le.Uint32(area[at:]) != 0; {
		e := area[at:]
		x := xattr{index: e[1], name: string(e[xattrEntryHeader : xattrEntryHeader+int(e[0])])}
		if n := int(le.Uint32(e[8:])); n > 0 {
			begin := int(le.Uint16(e[2:]))
			x.value = slices.Clone(base[begin : begin+n])
		}
		list = append(list, x)
		at += x.entrySize()
	}
	return list
}

// hashXattr is ext4_xattr_hash_entry.
func hashXattr(x xattr) uint32 {
	var h uint32
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	var padded [4]byte
	for v := x.value; len(v) > 0; v = v[min(4, len(v)):] {
		padded = [4]byte{}
		copy(padded[:], v)
		h = h<<16 ^ h>>16 ^ le.Uint32(padded[:])
	}
	return h
}

const (
	aclTagOwner = 0x01
	aclTagUser  = 0x02
	aclTagOwned = 0x04 // the file's group
	aclTagGroup = 0x08
	aclTagMask  = 0x10
	aclTagOther = 0x20
)

// diskACL turns a POSIX ACL from the form of getxattr (version 2, 8 bytes an entry)
// into that of ext4 (version 1, an id only where there is one). nil is the result for one
// without entries, and for an access list that says no more than the permissions do: as
// in the kernel, the file then has none.
func diskACL(v []byte, index uint8) ([]byte, error) {
	const (
		versionXattr = 2
		versionDisk  = 1
	)
	if len(v) == 0 {
		return nil, nil
	}
	if len(v) < 4 || (len(v)-4)%8 != 0 || le.Uint32(v) != versionXattr {
		return nil, fmt.Errorf("%w: malformed access control list", ErrXattr)
	}
	out, plain := le.AppendUint32(nil, versionDisk), index == xattrACLAccess
	for e := v[4:]; len(e) > 0; e = e[8:] {
		tag := le.Uint16(e)
		out = le.AppendUint16(out, tag)
		out = le.AppendUint16(out, le.Uint16(e[2:])&7)
		switch tag {
		case aclTagUser, aclTagGroup:
			out = append(out, e[4:8]...)
			plain = false
		case aclTagMask:
			plain = false
		case aclTagOwner, aclTagOwned, aclTagOther:
		default:
			return nil, fmt.Errorf("%w: malformed access control list", ErrXattr)
		}
	}
	if plain || len(v) == 4 {
		return nil, nil
	}
	return out, nil
}

// fitACL makes an access list repeat the file's permissions: where they differ the
// permissions count, as after a chmod.
func fitACL(v []byte, mode uint16) {
	group := -1
	for at := 4; at+4 <= len(v); {
		switch tag := le.Uint16(v[at:]); tag {
		case aclTagOwner:
			le.PutUint16(v[at+2:], mode>>6&7)
		case aclTagOther:
			le.PutUint16(v[at+2:], mode&7)
		case aclTagMask:
			group = at
		case aclTagOwned:
			if group < 0 {
				group = at
			}
		case aclTagUser, aclTagGroup:
			at += 4
		}
		at += 4
	}
	if group >= 0 {
		le.PutUint16(v[group+2:], mode>>3&7)
	}
}
