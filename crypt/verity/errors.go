package verity

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrCorrupt: blocks are not what the tree was made for. It is in each *CorruptError.
	ErrCorrupt = errors.New("content does not match its hash tree")
	// ErrGeometry: sizes or places that no tree has.
	ErrGeometry = errors.New("invalid geometry of a hash tree")
	// ErrEncoding: bytes that are no encoded Tree.
	ErrEncoding = errors.New("invalid encoding of a hash tree")
	// ErrOptions: a Writer cannot work with these options.
	ErrOptions = errors.New("invalid options of a hash tree's writer")
	// ErrFinished: the Writer was used after Finish, or by Finish and a write at once.
	ErrFinished = errors.New("hash tree is finished")
)

// VersionError is the version of an encoded Tree that this program does not know.
type VersionError struct{ Version int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("hash tree of version %d, this program knows version %d", e.Version, version)
}

// BadBlock is one block that is not what it was.
type BadBlock struct {
	Block uint64 // number on the device, in blocks of BlockSize bytes
	Level int    // 0 for data, 1 for a block with hashes of data, and so on up to the top
}

func (b BadBlock) String() string {
	if b.Level == 0 {
		return fmt.Sprintf("data block %d", b.Block)
	}
	return fmt.Sprintf("hash block %d (level %d)", b.Block, b.Level)
}

// CorruptError lists the bad blocks that Verify found.
type CorruptError struct {
	Bad []BadBlock // in the order found, at least one
	// Unchecked is how many data blocks could not be checked, as a block of the tree above
	// them is bad.
	Unchecked uint64
	// Stopped: the limit of bad blocks was reached, and the rest was not read.
	Stopped bool
}

// shown is how many blocks an error's text names: a line of a log is enough.
const shown = 8

func (e *CorruptError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: ", ErrCorrupt)
	for i, bad := range e.Bad {
		if i == shown {
			fmt.Fprintf(&b, ", and %d more", len(e.Bad)-shown)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(bad.String())
	}
	if e.Unchecked > 0 {
		fmt.Fprintf(&b, "; %d data blocks could not be checked", e.Unchecked)
	}
	if e.Stopped {
		b.WriteString("; stopped there")
	}
	return b.String()
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }
