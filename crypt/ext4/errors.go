package ext4

import "errors"

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
	// ErrNoSpace: the device is full.
	ErrNoSpace = errors.New("no space left")
)
