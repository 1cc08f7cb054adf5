package erofs

import (
	"errors"
	"fmt"
	"io"

	"layervault/crypt/fswriter"
)

// ErrNotEROFS: there is no superblock of this package.
var ErrNotEROFS = errors.New("not an EROFS file system of layervault")

// Places in the superblock, struct erofs_super_block.
const (
	atChecksum  = 0x04
	atBlockBits = 0x0c
	atBlocks    = 0x24
	blockBits   = 12
)

// ReadSuper reads the superblock and returns the size of the file system in bytes. Errors:
// ErrNotEROFS, or what r returned.
func ReadSuper(r io.ReaderAt) (size int64, err error) {
	b := make([]byte, blockSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%w: shorter than a block", ErrNotEROFS)
		}
		return 0, fmt.Errorf("read superblock: %w", err)
	}
	super := b[superOffset:]
	if le.Uint32(super) != magic || super[atBlockBits] != blockBits {
		return 0, ErrNotEROFS
	}
	sum := le.Uint32(super[atChecksum:])
	le.PutUint32(super[atChecksum:], 0)
	if checksum(super) != sum {
		return 0, fmt.Errorf("%w: checksum of the superblock is wrong", ErrNotEROFS)
	}
	return int64(le.Uint32(super[atBlocks:])) * fswriter.BlockSize, nil
}
