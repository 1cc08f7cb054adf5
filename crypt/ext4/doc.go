// Package ext4 makes, fills, checks and grows ext4 file systems on a block device or
// in a file. Writable ones are made by mke2fs; sealed ones are written from a tar in
// one pass, without mounting anything.
package ext4
