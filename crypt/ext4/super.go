package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Where things lie in the superblock, struct ext4_super_block, little-endian.
// https://docs.kernel.org/filesystems/ext4/super.html
const (
	superOffset = 1024
	superSize   = 1024

	sbInodes     = 0x00
	sbBlocksLow  = 0x04
	sbLogBlock   = 0x18
	sbGroup      = 0x20
	sbMagic      = 0x38
	sbState      = 0x3a
	sbCompat     = 0x5c
	sbIncompat   = 0x60
	sbUUID       = 0x68
	sbLabel      = 0x78
	sbLabelSize  = 16
	sbHashSeed   = 0xec
	sbBlocksHigh = 0x150
	sbChecksum   = 0x3fc

	magic           = 0xef53
	stateValid      = 0x1
	stateError      = 0x2
	compatJournal   = 0x4
	incompatRecover = 0x4
	incompat64bit   = 0x80
)

// Super is what of a superblock matters here.
type Super struct {
	UUID       [16]byte
	BlockSize  int
	Size       int64 // bytes
	Inodes     int64
	Group      int64 // bytes of one group of blocks
	HasJournal bool
	// Clean: unmounted in order, and no error was seen.
	Clean bool
	// Errors: the kernel saw damage while it was mounted.
	Errors bool
}

// ReadSuper reads the primary superblock. ErrNotExt4 where there is none.
func ReadSuper(r io.ReaderAt) (Super, error) {
	var b [superSize]byte
	if _, err := r.ReadAt(b[:], superOffset); err != nil {
		if errors.Is(err, io.EOF) {
			return Super{}, fmt.Errorf("%w: shorter than a superblock", ErrNotExt4)
		}
		return Super{}, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if m := le.Uint16(b[sbMagic:]); m != magic {
		return Super{}, fmt.Errorf("%w: magic %#04x", ErrNotExt4, m)
	}
	logBlock := le.Uint32(b[sbLogBlock:])
	if logBlock > 6 { // 64 KiB, the largest there is
		return Super{}, fmt.Errorf("%w: block size 2^%d KiB", ErrNotExt4, logBlock)
	}
	incompat, state := le.Uint32(b[sbIncompat:]), le.Uint16(b[sbState:])
	blocks := uint64(le.Uint32(b[sbBlocksLow:]))
	if incompat&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(b[sbBlocksHigh:])) << 32
	}
	s := Super{
		BlockSize:  1024 << logBlock,
		Inodes:     int64(le.Uint32(b[sbInodes:])),
		Group:      int64(le.Uint32(b[sbGroup:])) << (10 + logBlock),
		HasJournal: le.Uint32(b[sbCompat:])&compatJournal != 0,
		Clean:      state&stateValid != 0 && state&stateError == 0 && incompat&incompatRecover == 0,
		Errors:     state&stateError != 0,
	}
	if blocks > 1<<62/uint64(s.BlockSize) {
		return Super{}, fmt.Errorf("%w: %d blocks", ErrNotExt4, blocks)
	}
	s.Size = int64(blocks) * int64(s.BlockSize)
	copy(s.UUID[:], b[sbUUID:])
	return s, nil
}
