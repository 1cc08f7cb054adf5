package crypt

import (
	"errors"
	"fmt"
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
	// ErrInUse: the image is open, and what was asked needs it closed.
	ErrInUse = errors.New("image is in use")
	// ErrNoKeyFunc: the device has no Key function. There is no empty or default
	// key to fall back to.
	ErrNoKeyFunc = errors.New("no key for the image")
	// ErrBadParams: a parameter makes no sense; the text says which.
	ErrBadParams = errors.New("bad image parameters")
	// ErrOldFormat: the image's format is not accepted any more. Every such error is a
	// *FormatError.
	ErrOldFormat = errors.New("image format is not accepted any more")
)

// FormatError says that an image is of an older format than its tier accepts.
type FormatError struct {
	Format, Floor int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%v: format %d, at least %d is wanted: \"layervault vault upgrade\" brings a whole vault up, \"layervault image adopt\" one image that was put back",
		ErrOldFormat, e.Format, e.Floor)
}

// Is makes the error match ErrOldFormat.
func (e *FormatError) Is(target error) bool { return target == ErrOldFormat }

// CheckFormat is a *FormatError for an image of a format below floor, the lowest that its
// tier accepts.
func CheckFormat(format, floor int) error {
	if format < floor {
		return &FormatError{Format: format, Floor: floor}
	}
	return nil
}
