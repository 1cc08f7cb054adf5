package crypt

import "errors"

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
)
