package fswriter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// BlockSize of all file systems, in bytes.
const BlockSize = 4096

// DeviceSize is how much of the destination is used while an image is written. 1 TiB is
// ten times the largest container layer ever met, and every file system holds such a
// file, sparse.
const DeviceSize = 1 << 40

// MaxSize bounds an image. What lies behind is used for names and inodes while it is
// written, see Pager.
const MaxSize = DeviceSize - scratchSize

// Bounds of names and of targets of symbolic links, in bytes.
const (
	MaxName    = 255
	MaxSymlink = BlockSize - 1
)

// LinkMode is the mode of every symbolic link.
const LinkMode = 0o777

// The kinds of files, as in their mode.
const (
	ModeFIFO    = 0x1000
	ModeChar    = 0x2000
	ModeDir     = 0x4000
	ModeBlock   = 0x6000
	ModeRegular = 0x8000
	ModeSymlink = 0xa000
	ModeSocket  = 0xc000
	ModeType    = 0xf000
)

// Kind of a special file.
type Kind uint16

// The special files.
const (
	FIFO        Kind = ModeFIFO
	CharDevice  Kind = ModeChar
	BlockDevice Kind = ModeBlock
	Socket      Kind = ModeSocket
)

// FileType is the kind of a file as directory entries repeat it, the same number in all file systems.
func FileType(kind uint16) byte {
	switch kind & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}

// Device is the number of a device in an inode, as the kernel's new_encode_dev makes it. major has 12
// bits and minor 20; more is ErrName.
func Device(major, minor uint32) (uint32, error) {
	if major>>12 != 0 || minor>>20 != 0 {
		return 0, fmt.Errorf("%w: device %d:%d", ErrName, major, minor)
	}
	return minor&0xff | major<<8 | minor&^0xff<<12, nil
}

// Meta is what every file has.
type Meta struct {
	Mode   uint16 // permissions, setuid, setgid and sticky bit: 0 to 07777
	UID    uint32
	GID    uint32
	Atime  time.Time
	Mtime  time.Time
	Ctime  time.Time
	Xattrs map[string][]byte // by full name, "user.x"; values as getxattr(2) gives them
}

// Options of an image.
type Options struct {
	Label string    // at most 16 bytes; EROFS takes 15 of them
	Now   time.Time // when it was made
	Heap  *Heap     // shared by images that are made at the same time; may be nil
}

var le = binary.LittleEndian

// Errors of the writers; the caller adds the name of the file.
var (
	// ErrTooBig: the content does not fit into MaxSize.
	ErrTooBig = errors.New("file system would exceed 1023 GiB")
	// ErrName: no file can be called that.
	ErrName = errors.New("bad file name")
	// ErrXattr: the extended attributes do not fit into the file system.
	ErrXattr = errors.New("extended attributes too large")
	// ErrLinks: a file has more than 65000 names.
	ErrLinks = errors.New("too many hard links")
	// ErrSymlink: the target of a symbolic link is empty or longer than 4095 bytes.
	ErrSymlink = errors.New("bad symbolic link")
	// ErrNotReadable: the destination cannot be read back, and had to be.
	ErrNotReadable = errors.New("destination is not readable")
	// ErrClosed: the writer has done its work.
	ErrClosed = errors.New("the file system is written")
)
