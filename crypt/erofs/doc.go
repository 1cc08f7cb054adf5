// Package erofs writes a read-only EROFS file system in one pass over a stream of files,
// without mounting anything.
//
// An inode takes 64 bytes, and what is left of a file behind its last whole block follows
// it, so that small files share blocks. Inodes go out as files arrive, through a few blocks
// that are being filled; what changes in them later is patched at the end.
//
//	block 0        superblock and root: the only inode whose place is fixed
//	from block 1   content, and blocks of inodes with tails, in order of arrival
//	               inodes of directories with their tails
//	               whole blocks of directories
//	               attributes that several files share
//
// Block 0 is written last, so that an image that was not finished is no file system.
// While it is written, names and inodes that memory has no room for lie behind
// fswriter.MaxSize; the image is cut off before. The stream may be hostile: see package
// fswriter.
//
// Linux 5.15 mounts every image, older ones those without holes. Content that is replaced
// stays where it is, and nothing refers to it.
//
// Format: https://docs.kernel.org/filesystems/erofs.html
package erofs
