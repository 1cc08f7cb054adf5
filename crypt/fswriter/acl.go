package fswriter

import "fmt"

// The kinds of entries in a POSIX access control list.
const (
	ACLTagOwner = 0x01
	ACLTagUser  = 0x02
	ACLTagOwned = 0x04 // the file's group
	ACLTagGroup = 0x08
	ACLTagMask  = 0x10
	ACLTagOther = 0x20
)

// checkACL looks at a POSIX ACL in the form of getxattr: version 2, 8 bytes an entry. It
// is empty without entries, and so is an access list that says no more than the
// permissions do: as in the kernel, the file then has none.
func checkACL(v []byte, index uint8) (empty bool, err error) {
	const version = 2
	if len(v) == 0 {
		return true, nil
	}
	if len(v) < 4 || (len(v)-4)%8 != 0 || le.Uint32(v) != version {
		return false, fmt.Errorf("%w: malformed access control list", ErrXattr)
	}
	plain := index == XattrACLAccess
	for e := v[4:]; len(e) > 0; e = e[8:] {
		switch le.Uint16(e) {
		case ACLTagUser, ACLTagGroup, ACLTagMask:
			plain = false
		case ACLTagOwner, ACLTagOwned, ACLTagOther:
		default:
			return false, fmt.Errorf("%w: malformed access control list", ErrXattr)
		}
	}
	return plain || len(v) == 4, nil
}

// FitACL makes an access list repeat the file's permissions: where they differ the
// permissions count, as after a chmod. short lists have an id only where there is one.
func FitACL(v []byte, mode uint16, short bool) {
	group := -1
	for at := 4; at+4 <= len(v); {
		tag := le.Uint16(v[at:])
		switch tag {
		case ACLTagOwner:
			le.PutUint16(v[at+2:], mode>>6&7)
		case ACLTagOther:
			le.PutUint16(v[at+2:], mode&7)
		case ACLTagMask:
			group = at
		case ACLTagOwned:
			if group < 0 {
				group = at
			}
		}
		if !short || tag == ACLTagUser || tag == ACLTagGroup {
			at += 4
		}
		at += 4
	}
	if group >= 0 {
		le.PutUint16(v[group+2:], mode>>3&7)
	}
}
