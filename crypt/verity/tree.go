package verity

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

const (
	// BlockSize is the size of data blocks and of hash blocks in bytes: that of the file
	// systems, and of the smallest page of the kernels they are read by.
	BlockSize = 4096

	// HashSize is the size of a hash in bytes, SHA-256's.
	HashSize = sha256.Size

	// SaltSize is the size of the salt in bytes. Each tree has a random one: equal blocks of
	// two images have different hashes, and no table of hashes can be made in advance.
	SaltSize = 32

	// hashesPerBlock is how many hashes a hash block has.
	hashesPerBlock = BlockSize / HashSize

	// MaxBlocks bounds data blocks and the start of the tree: 16 TiB, the largest file of an
	// ext4 with blocks of 4096 bytes, and images are files. With it no sum of block numbers
	// and no offset in bytes overflows.
	MaxBlocks = 1 << 32
)

// Tree says where a hash tree lies, and what it must be. The zero value is no tree.
type Tree struct {
	Root       [HashSize]byte
	Salt       [SaltSize]byte
	DataBlocks uint64 // from the begin of the device
	HashStart  uint64 // where the tree begins, in blocks
}

// level is one level of a tree: blocks on the device.
type level struct{ start, blocks uint64 }

// levels are those of the tree, from the hashes of data blocks up to the top.
func (t Tree) levels() []level {
	var out []level
	for n := t.DataBlocks; n > 1; {
		n = (n + hashesPerBlock - 1) / hashesPerBlock
		out = append(out, level{blocks: n})
	}
	at := t.HashStart
	for i := len(out) - 1; i >= 0; i-- {
		out[i].start = at
		at += out[i].blocks
	}
	return out
}

// HashBlocks is how many blocks the tree takes on the device.
func (t Tree) HashBlocks() uint64 {
	var n uint64
	for _, l := range t.levels() {
		n += l.blocks
	}
	return n
}

// End is the first byte behind data and tree.
func (t Tree) End() int64 { return int64(t.HashStart+t.HashBlocks()) * BlockSize }

// Check wants numbers that a tree can have. The error wraps ErrGeometry.
func (t Tree) Check() error {
	switch {
	case t.DataBlocks == 0:
		return fmt.Errorf("%w: no data blocks", ErrGeometry)
	case t.DataBlocks > MaxBlocks:
		return fmt.Errorf("%w: %d data blocks, limit is %d", ErrGeometry, t.DataBlocks, uint64(MaxBlocks))
	case t.HashStart > MaxBlocks:
		return fmt.Errorf("%w: tree begins at block %d, limit is %d", ErrGeometry, t.HashStart, uint64(MaxBlocks))
	case t.HashStart < t.DataBlocks:
		return fmt.Errorf("%w: tree begins at block %d, within %d data blocks", ErrGeometry, t.HashStart, t.DataBlocks)
	}
	return nil
}

// Size is how many bytes the tree of a file system of so many bytes takes.
func Size(data int64) int64 {
	return int64(Tree{DataBlocks: uint64((data + BlockSize - 1) / BlockSize)}.HashBlocks()) * BlockSize
}

// hasher hashes blocks with one salt. It is for one goroutine.
//
// A state after the salt that is copied for each block would save nothing: the 32 bytes of the
// salt are half a block of SHA-256, so that no compression is done before data comes. Hashing
// takes 65 compressions either way.
type hasher struct {
	sha  hash.Hash
	salt [SaltSize]byte
}

func newHasher(salt [SaltSize]byte) *hasher { return &hasher{sha: sha256.New(), salt: salt} }

// append appends the hash of a block.
func (h *hasher) append(to, block []byte) []byte {
	h.sha.Reset()
	_, _ = h.sha.Write(h.salt[:]) // documented to return no error
	_, _ = h.sha.Write(block)
	return h.sha.Sum(to)
}

// The encoding of a Tree, big endian, of fixed size: for one tree there is one encoding.
//
//	 0   4  "LVVT"
//	 4   2  version, 1
//	 6   1  hash: 1 for SHA-256 in dm-verity's format type 1
//	 7   1  size of data and hash blocks, as a power of two: 12
//	 8   8  data blocks
//	16   8  start of the tree, in blocks
//	24  32  salt
//	56  32  root hash
const (
	magic       = "LVVT"
	version     = 1
	algorithm   = 1
	blockBits   = 12
	EncodedSize = 24 + SaltSize + HashSize
)

// MarshalBinary is the encoding of t. The error wraps ErrGeometry.
func (t Tree) MarshalBinary() ([]byte, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, EncodedSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, algorithm, blockBits)
	b = binary.BigEndian.AppendUint64(b, t.DataBlocks)
	b = binary.BigEndian.AppendUint64(b, t.HashStart)
	b = append(b, t.Salt[:]...)
	return append(b, t.Root[:]...), nil
}

// UnmarshalBinary reads an encoding. It is not authenticated: its place must be. The error
// wraps ErrEncoding or ErrGeometry, or is a *VersionError; t is left as it was.
func (t *Tree) UnmarshalBinary(b []byte) error {
	if len(b) < 6 || string(b[:4]) != magic {
		return fmt.Errorf("%w: no hash tree", ErrEncoding)
	}
	// The version comes first: another one may have another size.
	if v := int(binary.BigEndian.Uint16(b[4:])); v != version {
		return &VersionError{Version: v}
	}
	if len(b) != EncodedSize {
		return fmt.Errorf("%w: %d bytes, not %d", ErrEncoding, len(b), EncodedSize)
	}
	if b[6] != algorithm || b[7] != blockBits {
		return fmt.Errorf("%w: hash %d, blocks of 2^%d bytes", ErrEncoding, b[6], b[7])
	}
	read := Tree{DataBlocks: binary.BigEndian.Uint64(b[8:]), HashStart: binary.BigEndian.Uint64(b[16:])}
	copy(read.Salt[:], b[24:])
	copy(read.Root[:], b[24+SaltSize:])
	if err := read.Check(); err != nil {
		return err
	}
	*t = read
	return nil
}
