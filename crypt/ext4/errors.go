package ext4

import (
	"errors"
	"fmt"

	"layervault/crypt/ext4/image"
)

// LimitError says which bound of layers a tar exceeds; see the constants of package
// image and docs/operations.md.
type LimitError = image.LimitError

// errMissing explains an ErrParent or ErrLinkTarget.
var errMissing = fmt.Errorf("%w: no such directory", ErrParent)

var (
	// ErrToolMissing: a program of e2fsprogs is not installed.
	ErrToolMissing = errors.New("program is not installed")
	// ErrNotExt4: there is no ext4 superblock.
	ErrNotExt4 = errors.New("not an ext4 file system")
	// ErrTooSmall: the device cannot hold a journal and anything else.
	ErrTooSmall = errors.New("too small for a file system")
	// ErrInodes: a file system of that size cannot have that many inodes.
	ErrInodes = errors.New("number of inodes")
	// ErrMkfs: mke2fs failed; its words follow.
	ErrMkfs = errors.New("mke2fs failed")
	// ErrNeedsRepair: e2fsck -p found damage that it does not repair automatically.
	ErrNeedsRepair = errors.New("file system is damaged")
	// ErrCheck: e2fsck could not do its work.
	ErrCheck = errors.New("e2fsck failed")
	// ErrNoTrim: the device, or what lies beneath it, takes no discards.
	ErrNoTrim = errors.New("device does not support discards")
	// ErrNoSpace: the device is full.
	ErrNoSpace = errors.New("no space left")
)

// Errors of a tar that FromTar refuses. Each is wrapped with the entry's name.
var (
	// ErrBadTar: a header makes no sense.
	ErrBadTar = errors.New("damaged tar")
	// ErrBreakout: a name leads out of the archive's root.
	ErrBreakout = errors.New("path leads outside the archive")
	// ErrName: no file can be called that.
	ErrName = image.ErrName
	// ErrTooBig: the content does not fit into MaxTarSize.
	ErrTooBig = image.ErrTooBig
	// ErrXattr: an entry's extended attributes do not fit into an inode and one block.
	ErrXattr = image.ErrXattr
	// ErrLinks: a file has more than 65000 names.
	ErrLinks = image.ErrLinks
	// ErrSymlink: the target of a symbolic link is empty or longer than 4095 bytes.
	ErrSymlink = image.ErrSymlink
	// ErrParent: a name lies below something that is no directory, or below a symbolic
	// link that leads nowhere within the archive.
	ErrParent = errors.New("parent is not a directory")
	// ErrSparse: an entry with holes, in one of GNU tar's four forms. Docker can load
	// some, but what it notes of them (tar-split) gives other bytes when the image is saved.
	ErrSparse = errors.New("sparse entry: docker cannot save such a layer again")
	// ErrLinkTarget: a hard link to what is not in the archive before it, or to a
	// directory.
	ErrLinkTarget = errors.New("hard link without a target")
	// ErrEntryType: an entry of a kind that no file system has.
	ErrEntryType = errors.New("unknown kind of tar entry")
	// ErrUnmappedID: an owner that the ID maps do not cover.
	ErrUnmappedID = errors.New("owner is not in the ID map")
)
