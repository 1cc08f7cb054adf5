package disk

import "context"

// kind is a type of disk. Each type is one file, and one line in kinds.
type kind interface {
	// keys are the keys that an entry of this type may have beside those of all types.
	keys() []string
	// check reads the path, judges the entry, and fills in what it leaves out.
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
}

// kinds are the types that can be opened here.
var kinds = map[Type]kind{
	Directory: directory{},
	Versatile: plain{versatile{}},
	CAAM:      plain{caam{}},
	DCP:       plain{dcp{}},
	LUKS:      luks{},
}

// knownTypes are the types of kinds, in the order they are told in.
var knownTypes = []Type{Directory, Versatile, CAAM, DCP, LUKS}
