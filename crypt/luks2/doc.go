// Package luks2 reads and writes the LUKS2 on-disk format (LUKS2 On-Disk Format
// Specification 1.1), so that images are made and opened without running cryptsetup,
// without cgo and without device-mapper. What it writes, cryptsetup 2.x reads, repairs
// and re-encrypts; what cryptsetup writes, it reads.
//
// Read and Unlock do not authenticate a header: they are for tools and tests. Code that maps
// an image calls CheckOwn, Authentic and UnlockOwn; see ImageToken.
//
// # Layout
//
// Format with the default Params makes, in bytes from the begin of the file:
//
//	      0    4096  primary binary header: magic "LUKS\xba\xbe", version 2, sizes, sequence
//	                 number, label, UUID, salt, SHA-256 of this copy
//	   4096   12288  JSON: key slots, segments, digests, tokens, config; NUL after it
//	  16384    4096  secondary binary header: magic "SKUL\xba\xbe", another salt
//	  20480   12288  the same JSON
//	  32768  258048  area of key slot 0: 256000 bytes, the volume key in 4000 stripes,
//	                 encrypted with the key that the KDF makes of the passphrase
//	 290816  258048  area of the second key slot, a hole until there is one
//	 548864  258048  area of the third
//	 806912  241664  too small for a fourth; cryptsetup reencrypt keeps its log in what is free
//	1048576       -  the data: aes-xts-plain64 in sectors of 4096, IVs count from 0
//
// The JSON of an image of format 2 is 2 to 3 KiB, most of it the token's fields.
//
// So a new image takes 284 KiB on disk. A 256 bit key takes areas of 128 KiB, and seven
// fit. Key slots are always written with aes-xts-plain64 and a key of 512 bits,
// whatever the data cipher is (cryptsetup's own fall-back); for reading, aes-xts-plain64,
// aes-cbc-essiv:sha256 and Adiantum are known, all of which cryptsetup uses by itself
// for the data ciphers this package makes.
//
// # What holds
//
// The order of writes in each change is such that a crash, also one where a disk
// loses or reorders what was not synced, leaves a header that opens:
//
//   - Header copies (writeCopies): one after the other, a Sync after each, never first the
//     only good one. Old or new header; the copies may differ until the next change or
//     Repair.
//   - AddSlot: area, Sync, header. Never a slot in the header that does not open.
//   - RemoveSlot: area overwritten, Sync, header. The old passphrase is useless from the
//     first Sync on; until the header follows, it lists a slot that nothing opens.
//   - Erase: everything, one Sync. To be repeated after a crash.
//   - Exchange, Upgrade, Adopt: slots and token; see exchange.run. The image opens, and is
//     authentic, with the old or the new passphrase.
//   - Format: key slot and header, one Sync. The file is undefined until it returns.
//
// A change applies to the header that is on the disk at that moment and fails with
// ErrStale if that is not the header read before. Fields and tokens of other programs
// survive every change. Mandatory requirements (such as a reencryption in progress) are
// never ignored.
//
// # Not done
//
// No locks: cryptsetup takes flock(2) on an image file while it changes the header, and the
// caller who shares images with it or between processes should too. No detached
// headers, data integrity, reencryption or conversion from LUKS1. The Go runtime
// may have copied a key in ways that clear cannot reach (argon2's working memory,
// the expanded keys of crypto/aes); keep the process out of swap and core dumps.
package luks2
