// Package disk keeps Pantavisor's disks: it reads device.json, and opens what it
// describes. The rules are those of Pantavisor's documentation "disks" and of its source
// of August 2026 (disk/, volumes.c and scripts/volmount/crypt/crypt).
//
// # A crypt disk
//
// Its path is <folder>/<image>,<MiB>,<key>. The image is plain dm-crypt without any
// header, with ext4 in blocks of 1 KiB:
//
//	type               mode      cipher                     key in the folder
//	dm-crypt-versatile           aes-cbc-essiv:sha256       <key>.txt: 32 bytes
//	dm-crypt-caam      mainline  capi:cbc(aes)-plain64      <key>.bb: a trusted key's blob, in hex
//	dm-crypt-caam      nxp       capi:tk(cbc(aes))-plain    <key>.bb: caam-keygen's black blob
//	dm-crypt-dcp       mainline  capi:cbc(aes)-essiv:sha256 <key>.bb, as for caam
//	dm-crypt-dcp       nxp       capi:cbc(aes)-essiv:sha256 <key>: a blob of x--pv-dcp-tool
//	luks                         (LUKS2)                    derived from the tier's key
//
// luks is ours: an image in <tier>/disks, whose key names its tier.
//
// # First boot
//
// What a crash leaves, by step:
//
//	the key under a temporary name      that file, overwritten the next time
//	renamed                             the key, which is used again
//	<image>.new, formatted              that file, made anew the next time
//	renamed                             the image, found to open the next time
//	<key>.init_done                     a disk
//
// An image that exists is never formatted, and no key is made beside it: without its key
// it is an error. A disk that was once made (init_done) and has no image is one too.
//
// # Files
//
// model.go says what a device.json is, parse.go and entry.go read it as Pantavisor's parser
// does, rules.go has what we ask of paths and options. kind.go lists the types, each of which
// is one file: directory.go, versatile.go, caam.go, dcp.go, luks.go. A new type is one more
// file, and a line in kind.go. plain.go is what the three of plain dm-crypt share, trusted.go
// what those with a trusted key do, tools.go the programs of vendors. compose.go reads
// run.json, source.go the src.json beside it.
//
// # Names
//
// A disk's device is named by the disk: two disks of different folders may both call
// their image versatile.img.
package disk
