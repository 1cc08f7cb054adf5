package ext4

import (
	"fmt"
	"strconv"
)

// groupBlocks is how many blocks a group has: as many as one block of bitmap has bits.
const groupBlocks = 8 * BlockSize

// smallSize is below what a file system is small to mke2fs (mke2fs.conf): one inode for each
// smallRatio bytes, or files of one block each would find no inode while half of it is free.
const (
	smallSize  = 512 << 20
	smallRatio = 4096
)

// Bounds of MkfsOptions.Inodes. An inode takes 256 bytes; the densest file system that mke2fs
// makes has one for each KiB. More than MostInodes do not fit into the inode's number with
// room for growth.
const (
	LeastInodes = 1024
	MostInodes  = 1 << 31
	inodeBytes  = 1024
)

// CheckInodes wants a number of inodes that a file system of size bytes can have; 0 stands
// for as many as its size asks for.
func CheckInodes(inodes, size int64) error {
	most := min(size/inodeBytes, MostInodes)
	if inodes != 0 && (inodes < LeastInodes || inodes > most) {
		return fmt.Errorf("%w: %d, of %d bytes it can have %d to %d", ErrInodes, inodes, size, LeastInodes, most)
	}
	return nil
}

// inodeArgs are mke2fs's arguments for the inodes of a file system of size bytes. A small one
// is divided into equal groups: when it grows it gets more of those, each with its inodes, so
// that the ratio stays. A last group that is shorter would have inodes for its length only, and
// all groups to come the same few.
func inodeArgs(size, inodes int64) []string {
	if inodes == 0 && size >= smallSize {
		return nil // mke2fs's own, one for each 8 KiB
	}
	if inodes == 0 {
		inodes = size / smallRatio
	}
	blocks := size / BlockSize
	groups := max(ceil(blocks, groupBlocks), ceil(inodes, groupBlocks)) // an inode bitmap is one block too
	args := []string{"-N", strconv.FormatInt(inodes, 10)}
	if per := ceil(ceil(blocks, groups), 8) * 8; size < smallSize || groups*groupBlocks > blocks+groupBlocks {
		args = append(args, "-g", strconv.FormatInt(per, 10))
	}
	return args
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }
