package image

import (
	"encoding/binary"

	"layervault/crypt/fswriter"
)

// Sizes in bytes and counts that follow from the block size of 4096.
const (
	BlockSize      = fswriter.BlockSize
	inodeSize      = 256
	inodeUsed      = 160 // 128 of the old inode, 32 of the extra fields; xattrs follow
	groupBlocks    = BlockSize * 8
	groupMaxInodes = BlockSize * 8
	inodesPerBlock = BlockSize / inodeSize
	descSize       = 32
	descsPerBlock  = BlockSize / descSize

	// descBlocks is how many blocks are set aside for group descriptors: 64, for 1 TiB.
	// Those that are not needed are never written. Block numbers have 32 bits, for 16 TiB.
	descBlocks = fswriter.DeviceSize / BlockSize / groupBlocks / descsPerBlock
	firstData  = 1 + descBlocks

	// maxLinks is EXT4_LINK_MAX. A directory with more subdirectories than that counts
	// as 1 (feature dir_nlink); a file with more names is an error.
	maxLinks = 65000

	fastLink = 60 // shorter targets lie in the inode
)

// Places in an inode record.
const (
	blockArea  = 0x28 // 60 bytes: extents, a short target, or a device number
	linkText   = 0x64 // i_generation, which may be anything: where a long target is kept
	xattrPlace = 0x68
)

// Inode numbers with a meaning.
const (
	inoRoot      = 2
	inoLostFound = 11
	inoFirst     = 11 // below it all are reserved
)

// Features. sparse_super2 without backup groups is what says that there are no
// backups of superblock and descriptors.
const (
	compatExtAttr      = 0x8
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200

	incompatFiletype = 0x2
	incompatExtents  = 0x40
	incompatFlexBG   = 0x200 // inode tables and bitmaps may lie anywhere

	roLargeFile  = 0x2
	roHugeFile   = 0x8
	roDirNlink   = 0x20
	roExtraIsize = 0x40
	roReadonly   = 0x1000 // the kernel refuses to mount it writable
)

const (
	flagExtents  = 0x80000
	flagDirIndex = 0x1000
)

var le = binary.LittleEndian

// superblock is what the fields that vary say.
type superblock struct {
	inodes, blocks, freeBlocks, freeInodes, inodesPerGroup uint32
	created                                                uint32
	uuid, hashSeed                                         [16]byte
	label                                                  string
}

// encode makes block 0: 1024 bytes for boot code, then struct ext4_super_block.
func (s superblock) encode() []byte {
	b := make([]byte, BlockSize)
	sb := b[1024:2048]
	le.PutUint32(sb[0x00:], s.inodes)
	le.PutUint32(sb[0x04:], s.blocks)
	le.PutUint32(sb[0x0c:], s.freeBlocks)
	le.PutUint32(sb[0x10:], s.freeInodes)
	le.PutUint32(sb[0x18:], 2) // log2 of the block size in KiB
	le.PutUint32(sb[0x1c:], 2) // of the cluster size
	le.PutUint32(sb[0x20:], groupBlocks)
	le.PutUint32(sb[0x24:], groupBlocks) // clusters
	le.PutUint32(sb[0x28:], s.inodesPerGroup)
	le.PutUint32(sb[0x30:], s.created)
	le.PutUint16(sb[0x36:], 0xffff) // never checked after a number of mounts
	le.PutUint16(sb[0x38:], 0xef53)
	le.PutUint16(sb[0x3a:], 1)         // clean
	le.PutUint16(sb[0x3c:], 2)         // on errors: read-only, which it is
	le.PutUint32(sb[0x40:], s.created) // last check
	le.PutUint32(sb[0x4c:], 1)         // revision with inode sizes
	le.PutUint32(sb[0x54:], inoFirst)
	le.PutUint16(sb[0x58:], inodeSize)
	le.PutUint32(sb[0x5c:], compatExtAttr|compatDirIndex|compatSparseSuper2)
	le.PutUint32(sb[0x60:], incompatFiletype|incompatExtents|incompatFlexBG)
	le.PutUint32(sb[0x64:], roLargeFile|roHugeFile|roDirNlink|roExtraIsize|roReadonly)
	copy(sb[0x68:0x78], s.uuid[:])
	copy(sb[0x78:0x88], s.label)
	copy(sb[0xec:0xfc], s.hashSeed[:])
	sb[0xfc] = hashHalfMD4
	le.PutUint32(sb[0x108:], s.created)
	le.PutUint16(sb[0x15c:], inodeUsed-128) // extra size every inode has
	le.PutUint16(sb[0x15e:], inodeUsed-128)
	le.PutUint32(sb[0x160:], 2) // directory hashes take bytes as unsigned
	sb[0x174] = 31              // log2 of the groups per flex group: all are in one
	return b
}

// descriptor is one struct ext4_group_desc.
type descriptor struct {
	blockBitmap, inodeBitmap, inodeTable uint32
	freeBlocks, freeInodes, dirs         int
}

func (d descriptor) encode(b []byte) {
	le.PutUint32(b[0x00:], d.blockBitmap)
	le.PutUint32(b[0x04:], d.inodeBitmap)
	le.PutUint32(b[0x08:], d.inodeTable)
	le.PutUint16(b[0x0c:], uint16(d.freeBlocks))
	le.PutUint16(b[0x0e:], uint16(d.freeInodes))
	le.PutUint16(b[0x10:], uint16(d.dirs))
}
