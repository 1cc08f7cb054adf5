package ext4

import (
	"errors"

	"layervault/crypt/fswriter"
	"layervault/crypt/layertar"
)

// LimitError says which bound of layers a tar exceeds; see the constants of package
// fswriter and docs/operations.md.
type LimitError = fswriter.LimitError

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

// Errors of a tar that FromTar refuses, see package layertar.
var (
	ErrBadTar     = layertar.ErrBadTar
	ErrBreakout   = layertar.ErrBreakout
	ErrName       = layertar.ErrName
	ErrTooBig     = layertar.ErrTooBig
	ErrXattr      = layertar.ErrXattr
	ErrLinks      = layertar.ErrLinks
	ErrSymlink    = layertar.ErrSymlink
	ErrParent     = layertar.ErrParent
	ErrSparse     = layertar.ErrSparse
	ErrLinkTarget = layertar.ErrLinkTarget
	ErrEntryType  = layertar.ErrEntryType
	ErrUnmappedID = layertar.ErrUnmappedID
)
