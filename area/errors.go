package area

import "errors"

// Errors that a caller can ask for with errors.Is. Those of package crypt and of the keys are
// wrapped, not renamed.
var (
	// ErrAbsent: the area was never made, or its image is gone.
	ErrAbsent = errors.New("area has no image")
	// ErrInTheWay: something that is not the area's lies at its place; nothing was changed.
	ErrInTheWay = errors.New("place of the area is taken")
	// ErrInUse: something uses the area; the text says what.
	ErrInUse = errors.New("area is in use")
	// ErrClosed: the area is not open.
	ErrClosed = errors.New("area is closed")
	// ErrFloor: no more is written, because only the room that stays free for the host is left
	// on the disk.
	ErrFloor = errors.New("disk is full up to its floor")
)
