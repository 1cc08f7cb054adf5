// Package verity makes and checks hash trees of dm-verity: with one, the kernel reads a
// block as it was written, or returns an I/O error. Encryption alone has no such check: who
// can write to the disk can turn blocks into noise, or put old ones back.
//
// A Writer stands before the device that a file system is written to and hashes each block on
// its way. Finish writes the tree behind the file system, on the same device. The root hash
// in the Tree it returns vouches for every block, so the Tree must be kept where it is
// authenticated. There is no verity superblock.
//
//	0                data blocks: the file system
//	HashStart        one block of hashes: the top of the tree
//	                 the level below, and so on
//	                 the lowest level: the hashes of the data blocks
//
// Blocks have 4096 bytes. A block's hash is SHA-256(salt, block): format type 1. A block of
// the tree holds the hashes of 128 blocks of the level below, in order, padded with zeros. Each
// level begins right behind the one above. A single data block has no tree: its hash is the
// root hash.
//
// The tree covers what the device returns, for every block up to the file system's end. File
// systems leave blocks unwritten that they do not use; the kernel may still read these, ahead
// or with a neighbour, and an error there would look like tampering. So Finish reads them
// from the device and hashes what is there: under dm-crypt, noise.
//
// Format: https://docs.kernel.org/admin-guide/device-mapper/verity.html
package verity
