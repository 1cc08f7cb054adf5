package image

import (
	"cmp"
	"fmt"
	"maps"
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

type xattr struct {
	index uint8
	name  string // what follows the prefix
	value []byte
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

// placeXattrs puts what fits into the inode record and returns the block that holds
// the rest, nil where there is none.
func placeXattrs(record []byte, attrs map[string][]byte, mode uint16) (block []byte, err error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	var inside, outside []xattr
	insideLeft, outsideLeft := xattrInInode-4-4, BlockSize-xattrBlockHeader-4 // 4: the zero that ends a list
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		x := xattr{value: attrs[name]}
		x.index, x.name = splitXattr(name)
		if x.index == 0 || len(x.name) > maxName {
			return nil, fmt.Errorf("%w: name %q", ErrXattr, name)
		}
		if x.index == xattrACLAccess || x.index == xattrACLDefault {
			if x.value, err = diskACL(x.value, x.index, mode); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		switch n := x.size(); {
		case n <= insideLeft:
			inside, insideLeft = append(inside, x), insideLeft-n
		case n <= outsideLeft:
			outside, outsideLeft = append(outside, x), outsideLeft-n
		default:
			return nil, fmt.Errorf("%w: %s, %d bytes", ErrXattr, name, len(x.value))
		}
	}
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

// diskACL turns a POSIX ACL from the form of getxattr (version 2, 8 bytes an entry)
// into that of ext4 (version 1, an id only where there is one). An access ACL repeats
// the file's permissions; where they differ the permissions count, as after a chmod.
func diskACL(v []byte, index uint8, mode uint16) ([]byte, error) {
	const (
		versionXattr = 2
		versionDisk  = 1

		tagOwner = 0x01
		tagUser  = 0x02
		tagOwned = 0x04 // the file's group
		tagGroup = 0x08
		tagMask  = 0x10
		tagOther = 0x20
	)
	if len(v) < 4 || (len(v)-4)%8 != 0 || le.Uint32(v) != versionXattr {
		return nil, fmt.Errorf("%w: not an access control list", ErrXattr)
	}
	groupTag := uint16(tagOwned)
	for e := v[4:]; len(e) > 0; e = e[8:] {
		if le.Uint16(e) == tagMask {
			groupTag = tagMask
		}
	}
	out := le.AppendUint32(nil, versionDisk)
	for e := v[4:]; len(e) > 0; e = e[8:] {
		tag, perm := le.Uint16(e), le.Uint16(e[2:])&7
		if index == xattrACLAccess {
			switch tag {
			case tagOwner:
				perm = mode >> 6 & 7
			case groupTag:
				perm = mode >> 3 & 7
			case tagOther:
				perm = mode & 7
			}
		}
		out = le.AppendUint16(out, tag)
		out = le.AppendUint16(out, perm)
		if tag == tagUser || tag == tagGroup {
			out = append(out, e[4:8]...)
		}
	}
	return out, nil
}
