// Package fswriter is what the writers of read-only file systems have in common: the
// tree of names, the memory and the scratch space that it lies in, the stream to the
// device, the limits, and extended attributes as the kernel gives them. A writer adds
// the format.
//
// The files come from an unauthenticated stream, in any order: whatever grows with it is
// bounded, see LimitError and the constants beside it, and memory is too. What memory has
// no room for is written behind MaxSize of the destination while the image is made.
package fswriter
