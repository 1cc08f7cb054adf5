// Package image writes a read-only ext4 file system in one pass over a stream of
// files, without mounting anything.
//
// File content goes out in the order in which it comes, each file in one piece, after
// the superblock and room for the group descriptors. What is only known at the end
// follows it: directories, inode table, bitmaps. Last of all the superblock is
// written, so that an image that was not finished is no file system.
//
//	block 0             superblock
//	blocks 1 to 64      group descriptors; the ones not needed stay unwritten and free
//	from block 65 on    file content, xattr blocks, extent blocks, in order of arrival
//	                    directories
//	                    inode table of all groups, then the bitmaps of all groups
//
// While it is written, names and inodes that memory has no room for lie behind fswriter.MaxSize; the
// image is cut off before. The stream may be hostile: whatever grows with it is bounded, see
// package fswriter, and memory is too.
//
// There is no journal and there are no backups. Blocks that the file system does not
// use are never written, nor read by the kernel: they may hold anything.
//
// Format: https://docs.kernel.org/filesystems/ext4/
package image
