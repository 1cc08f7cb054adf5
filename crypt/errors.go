package crypt

import (
	"errors"
	"fmt"

	"layervault/crypt/dm"
	"layervault/crypt/loop"
	"layervault/crypt/verity"
)

// Errors a caller can ask for with errors.Is. The ones of the packages below
// (luks2.ErrDamaged, luks2.ErrNoKey, ext4.ErrBreakout, ...) are wrapped, not
// renamed.
var (
	// ErrExists: the image file is already there.
	ErrExists = errors.New("image exists")
	// ErrNotExist: there is no such image file.
	ErrNotExist = errors.New("image does not exist")
	// ErrNoSpace: the disk that holds the image, or the image itself, is full.
	ErrNoSpace = errors.New("no space left")
	// ErrNoMapper: this kernel offers no device-mapper.
	ErrNoMapper = dm.ErrUnavailable
	// ErrNoLoop: this kernel offers no loop devices.
	ErrNoLoop = loop.ErrUnavailable
	// ErrCorrupt: a sealed image has blocks that are not what they were.
	ErrCorrupt = verity.ErrCorrupt
	// ErrUnreadable: the disk cannot read a part of the image.
	ErrUnreadable = errors.New("image cannot be read from the disk")
	// ErrInUse: the image is open, and the operation needs it closed.
	ErrInUse = errors.New("image is in use")
	// ErrNoKeyFunc: the image has no Key function. There is no empty or default key.
	ErrNoKeyFunc = errors.New("no key for the image")
	// ErrBadParams: a parameter is invalid; the text names it.
	ErrBadParams = errors.New("bad image parameters")
	// ErrOldFormat: the image's format is no longer accepted. Every such error is a
	// *FormatError.
	ErrOldFormat = errors.New("image format is no longer accepted")
)

// CorruptError lists the blocks of a sealed image that are not what they were. It matches
// ErrCorrupt.
type CorruptError = verity.CorruptError

// BadBlock is one of them.
type BadBlock = verity.BadBlock

// FormatError says that the image's format is older than its tier accepts.
type FormatError struct {
	Format, Floor int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%v: format %d, minimum is %d",
		ErrOldFormat, e.Format, e.Floor)
}

// Is makes the error match ErrOldFormat.
func (e *FormatError) Is(target error) bool { return target == ErrOldFormat }
