package ext4

import (
	"errors"

	"layervault/crypt/ext4/image"
)

var (
	// ErrToolMissing: a program of e2fsprogs is not installed.
	ErrToolMissing = errors.New("program is not installed")
	// ErrNotExt4: there is no ext4 superblock.
	ErrNotExt4 = errors.New("not an ext4 file system")
	// ErrTooSmall: the device cannot hold a journal and anything else.
	ErrTooSmall = errors.New("too small for a file system")
	// ErrMkfs: mke2fs failed; its words follow.
	ErrMkfs = errors.New("mke2fs failed")
	// ErrNeedsRepair: e2fsck -p found damage it does not mend on its own.
	ErrNeedsRepair = errors.New("file system is damaged")
	// ErrCheck: e2fsck could not do its work.
	ErrCheck = errors.New("e2fsck failed")
	// ErrNoTrim: the device, or what lies beneath it, takes no discards.
	ErrNoTrim = errors.New("device takes no discards")
	// ErrNoSpace: the device is full.
	ErrNoSpace = errors.New("no space left")
)

// Errors of a tar that FromTar refuses. Each is wrapped with the entry's name.
var (
	// ErrEmptyTar: the stream has no byte. An empty archive has at least one block.
	ErrEmptyTar = errors.New("empty stream where a tar was expected")
	// ErrBadTar: a header makes no sense.
	ErrBadTar = errors.New("damaged tar")
	// ErrBreakout: a name leads out of the archive's root.
	ErrBreakout = errors.New("name leads outside the archive")
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
	// ErrParent: a name lies below something that is no directory. Symbolic links are
	// not followed.
	ErrParent = errors.New("parent is not a directory")
	// ErrLinkTarget: a hard link to what is not in the archive before it, or to a
	// directory.
	ErrLinkTarget = errors.New("hard link without a target")
	// ErrEntryType: an entry of a kind that no file system has.
	ErrEntryType = errors.New("unknown kind of tar entry")
	// ErrUnmappedID: an owner that the ID maps do not cover.
	ErrUnmappedID = errors.New("owner is not in the ID map")
)
