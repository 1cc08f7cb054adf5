package fswriter

import "fmt"

// Limits of one image. An image is written from an unauthenticated stream, so all
// memory use is bounded: a small tar must not cost much memory, and the import of a
// layer stays below 96 MiB for any tar.
const (
	// MaxFiles bounds files and directories, those that a path only implies and those
	// that a later entry replaced included, and by itself names (a file may have several).
	// Each costs at most 44 bytes of memory while the image is written: 44 MiB in all. The
	// largest layers known have about 400,000 files.
	MaxFiles = 1 << 20

	// MaxImplied bounds directories that have no entry of their own. Each takes a block of
	// the image, and one name of 4 KiB may imply 2,000 of them.
	MaxImplied = 1 << 17

	// MaxDepth bounds how deep directories lie. No deeper one can be named in a system
	// call: PATH_MAX is 4096, and a name and its slash take two.
	MaxDepth = 2048

	// MaxMetadata bounds the bytes of names, of targets of symbolic links, and of
	// attributes of directories. MaxFiles names of 255 bytes fit, and as much again.
	MaxMetadata = 512 << 20

	// MaxFile bounds one file in bytes: ext4 counts a file's blocks with 32 bits. What ext4
	// refuses is refused elsewhere, too: which format a host can mount decides nothing else.
	MaxFile = (1<<32 - 1) * BlockSize

	// MaxXattrs bounds the extended attributes of one file. No more fit into an inode and
	// a block, of which each takes 20 bytes at least.
	MaxXattrs = 255
)

// LimitError says which bound a stream would exceed. Limit is the largest value that is
// still accepted.
type LimitError struct {
	What  string // "files and directories", "bytes of one file", ...
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("more than %d %s: limit for one layer", e.Limit, e.What)
}
