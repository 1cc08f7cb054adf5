package fswriter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// The numbers that stand for a prefix of an attribute's name, the same in ext4 and EROFS.
const (
	XattrUser       = 1
	XattrACLAccess  = 2
	XattrACLDefault = 3
	XattrTrusted    = 4
	XattrSecurity   = 6
)

// Xattr is an attribute as file systems keep it.
type Xattr struct {
	Index uint8
	Name  string // what follows the prefix
	Value []byte
}

// Compare sorts attributes.
func (x Xattr) Compare(y Xattr) int {
	return cmp.Or(cmp.Compare(x.Index, y.Index), cmp.Compare(x.Name, y.Name))
}

// IsCapability tells a file's capabilities, which the kernel takes away when the owner is
// set.
func (x Xattr) IsCapability() bool { return x.Index == XattrSecurity && x.Name == "capability" }

// fits tells whether an attribute fits into one block, as ext4 counts it: 16 bytes more
// than name and value, each in units of 4.
func (x Xattr) fits() bool { return 16+(len(x.Name)+3)&^3+(len(x.Value)+3)&^3 <= BlockSize }

// HasXattrNamespace tells whether a file system can hold an attribute of that name. The
// kernel refuses the others with EOPNOTSUPP.
func HasXattrNamespace(name string) bool {
	index, rest := splitXattr(name)
	return index == XattrACLAccess || index == XattrACLDefault || index != 0 && rest != ""
}

func splitXattr(name string) (index uint8, rest string) {
	switch name {
	case "system.posix_acl_access":
		return XattrACLAccess, ""
	case "system.posix_acl_default":
		return XattrACLDefault, ""
	}
	prefix, rest, _ := strings.Cut(name, ".")
	switch prefix {
	case "user":
		return XattrUser, rest
	case "trusted":
		return XattrTrusted, rest
	case "security":
		return XattrSecurity, rest
	}
	return 0, name
}

// ListXattrs sorts attributes and turns them into the form of a file
// system; form makes that of an access control list. Those that the kernel
// allows no file of this kind are left out, as by docker: user.* on what is neither a
// file nor a directory, access control lists of symbolic links, default ones of anything
// but directories.
func ListXattrs(attrs map[string][]byte, kind uint16, form func([]byte) []byte) ([]Xattr, error) {
	if len(attrs) > MaxXattrs {
		return nil, &LimitError{"extended attributes of one file", MaxXattrs}
	}
	list := make([]Xattr, 0, len(attrs))
	for name, value := range attrs {
		x := Xattr{Value: value}
		x.Index, x.Name = splitXattr(name)
		if x.Index == 0 || len(x.Name) > MaxName {
			return nil, fmt.Errorf("%w: name %.300q", ErrXattr, name)
		}
		if !x.fits() {
			return nil, fmt.Errorf("%w: %s, %d bytes", ErrXattr, name, len(value))
		}
		switch x.Index {
		case XattrUser:
			if kind != ModeRegular && kind != ModeDir {
				continue
			}
		case XattrACLAccess, XattrACLDefault:
			empty, err := checkACL(value, x.Index)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if kind == ModeSymlink || x.Index == XattrACLDefault && kind != ModeDir || empty {
				continue
			}
			x.Value = form(value)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, Xattr.Compare)
	return list, nil
}

// MergeXattrs adds b to a, both sorted; where both have a name, that of b counts.
func MergeXattrs(a, b []Xattr) []Xattr {
	all := make([]Xattr, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
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

// PackXattrs makes one text of a list: for each its index, the lengths of name and
// value, name and value.
func PackXattrs(list []Xattr) string {
	var b []byte
	for _, x := range list {
		b = append(b, x.Index, uint8(len(x.Name)))
		b = le.AppendUint16(b, uint16(len(x.Value)))
		b = append(append(b, x.Name...), x.Value...)
	}
	return string(b)
}

// UnpackXattrs reads what PackXattrs made.
func UnpackXattrs(b []byte) (list []Xattr) {
	for len(b) >= 4 {
		name, value := int(b[1]), int(le.Uint16(b[2:]))
		x := Xattr{Index: b[0], Name: string(b[4 : 4+name]), Value: slices.Clone(b[4+name : 4+name+value])}
		list, b = append(list, x), b[4+name+value:]
	}
	return list
}
