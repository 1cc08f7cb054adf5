package erofs

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"time"

	"layervault/crypt/fswriter"
)

const (
	blockSize = fswriter.BlockSize
	slot      = 32 // inodes lie at multiples of this; their number counts them
	inodeSize = 64

	superOffset = 1024
	superSize   = 128
	rootOffset  = superOffset + superSize // in block 0
	magic       = 0xe0f5e1e2
	labelSize   = 15 // and a NUL, without which Linux refuses the file system
)

// Features.
const (
	compatChecksum   = 0x1
	compatMtime      = 0x2
	incompatChunked  = 0x4
	formatExtended   = 1
	formatLayoutBit  = 1
	chunkNull        = 0xffffffff // block number of a hole
	xattrHeaderSize  = 12
	xattrEntrySize   = 4
	direntSize       = 12
	sharedXattrsUnit = 4
)

// How a file's content lies, in the format of its inode.
const (
	layoutPlain  = 0 // whole blocks in one piece
	layoutInline = 2 // the same, and what is left behind the inode
	layoutChunks = 4 // an array of block numbers behind the inode
)

// Places in an inode record, which is struct erofs_inode_extended.
const (
	atFormat = 0
	atIcount = 2
	atMode   = 4
	atSize   = 8
	atUnion  = 16 // first block, device number or format of chunks
	atIno    = 20
	atUID    = 24
	atGID    = 28
	atMtime  = 32
	atNsec   = 40
	atNlink  = 44
	coreSize = 48 // the rest is reserved: here it is used until the inode is written

	atText = 48 // where the attributes of a directory are kept, 0 for nowhere
	atRoom = 52 // what fits there
	atLink = 56 // where the target of a symbolic link is kept
)

var le = binary.LittleEndian

func putMeta(b []byte, kind uint16, m fswriter.Meta) {
	le.PutUint16(b[atMode:], kind|m.Mode&0o7777)
	putOwner(b, m)
	seconds, nanoseconds := m.Mtime.Unix(), m.Mtime.Nanosecond()
	if m.Mtime.IsZero() {
		seconds, nanoseconds = 0, 0
	}
	le.PutUint64(b[atMtime:], uint64(seconds))
	le.PutUint32(b[atNsec:], uint32(nanoseconds))
}

func putOwner(b []byte, m fswriter.Meta) {
	le.PutUint32(b[atUID:], m.UID)
	le.PutUint32(b[atGID:], m.GID)
}

func putLayout(b []byte, layout uint16, size int64, union uint32, xattrs int) {
	le.PutUint16(b[atFormat:], formatExtended|layout<<formatLayoutBit)
	le.PutUint64(b[atSize:], uint64(size))
	le.PutUint32(b[atUnion:], union)
	le.PutUint16(b[atIcount:], xattrCount(xattrs))
}

func sizeOf(b []byte) int64 { return int64(le.Uint64(b[atSize:])) }

func layoutOf(b []byte) uint16 { return le.Uint16(b[atFormat:]) >> formatLayoutBit & 7 }

// xattrCount is how an inode says that its attributes take n bytes.
func xattrCount(n int) uint16 {
	if n == 0 {
		return 0
	}
	return uint16((n-xattrHeaderSize)/4 + 1)
}

// xattrSize is the reverse.
func xattrSize(b []byte) int {
	n := int(le.Uint16(b[atIcount:]))
	if n == 0 {
		return 0
	}
	return xattrHeaderSize + (n-1)*4
}

// chunkFormat is what the inode says of chunks of that many bytes.
func chunkFormat(chunk int64) uint32 { return uint32(bits.TrailingZeros64(uint64(chunk / blockSize))) }

// superblock is what the fields that vary say.
type superblock struct {
	inodes  uint64
	blocks  uint32
	shared  uint32 // first block of the attributes that are shared
	chunked bool
	created time.Time
	uuid    [16]byte
	label   string
}

// encode writes it to block 0, whose other content is complete: the checksum covers it.
func (s superblock) encode(block []byte) {
	b := block[superOffset : superOffset+superSize]
	clear(b)
	le.PutUint32(b[0x00:], magic)
	le.PutUint32(b[0x08:], compatChecksum|compatMtime)
	b[atBlockBits] = blockBits
	le.PutUint16(b[0x0e:], rootOffset/slot)
	le.PutUint64(b[0x10:], s.inodes)
	le.PutUint64(b[0x18:], uint64(s.created.Unix()))
	le.PutUint32(b[0x20:], uint32(s.created.Nanosecond()))
	le.PutUint32(b[atBlocks:], s.blocks)
	le.PutUint32(b[0x28:], 0) // numbers of inodes count from block 0
	le.PutUint32(b[0x2c:], s.shared)
	copy(b[0x30:0x40], s.uuid[:])
	copy(b[0x40:0x40+labelSize], s.label)
	if s.chunked {
		le.PutUint32(b[0x50:], incompatChunked)
	}
	le.PutUint32(b[atChecksum:], checksum(block[superOffset:]))
}

// checksum is that of block 0 from the superblock on, whose own checksum is 0.
func checksum(b []byte) uint32 { return ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
