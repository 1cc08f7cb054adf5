package disk

import "context"

// kinds are the types that can be opened here, in the order they are told in. Each is one
// file, and one line here.
var kinds = []struct {
	name Type
	kind
}{
	{Directory, directory{}},
	{Versatile, plain{versatile{}}},
	{CAAM, plain{caam{}}},
	{DCP, plain{dcp{}}},
	{LUKS, luks{}},
}

// kind finds a type; nil for one that is not opened here.
func (t Type) kind() kind {
	for _, k := range kinds {
		if k.name == t {
			return k.kind
		}
	}
	return nil
}

// knownTypes are the names of kinds.
func knownTypes() []Type {
	names := make([]Type, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// kind is a type of disk.
type kind interface {
	// keys are the keys that an entry of this type may have beside those of all types.
	keys() []string
	// read reads those keys.
	read(e diskEntry, d *Disk) error
	// check reads the path, and judges the disk.
	check(d *Disk, path string, rules Rules) error
	// files are the files that no other disk may share.
	files(d Disk) []string
	// of gives a disk of this type as something to open.
	of(s *Set, d Disk) opener
}

// opener is one disk, to be opened.
type opener interface {
	// mount mounts the disk, once more if it is open. Its folder is there.
	mount(ctx context.Context, at string) error
	// opened is the number of the device it is open as (see unix.Mkdev), 0 when nothing
	// uses it, and for a directory.
	opened() (uint64, error)
	// inspect looks at the disk without opening it, and makes nothing.
	inspect(st *Status)
}

// image is a disk that is an image, to be made.
type image interface {
	opener
	// marker is the file that says that the disk was once made.
	marker() string
	// ensureKey makes the key when there is none, and never beside an image.
	ensureKey(ctx context.Context, haveImage bool) error
	// create makes the image.
	create(ctx context.Context) error
	// wants is the size of the image's file in bytes; 0 where it grows with its content.
	wants() int64
}
