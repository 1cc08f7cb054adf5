package layer

import (
	"errors"

	"layervault/internal/authentic"
)

// Errors a caller can ask for with errors.Is.
var (
	// ErrBadID: the id could not have come from an honest client. See ValidateID.
	ErrBadID = errors.New("bad layer id")
	// ErrNotFound: there is no such layer. A half-made layer is not found either.
	ErrNotFound = errors.New("no such layer")
	// ErrExists: a layer of this id was made with other arguments.
	ErrExists = errors.New("layer exists already")
	// ErrInUse: the layer is the parent of another; remove that one first.
	ErrInUse = errors.New("layer is in use")
	// ErrTooDeep: a chain has more layers than overlayfs can stack.
	ErrTooDeep = errors.New("too many layers on top of each other")
	// ErrDamaged: a record cannot be read or contradicts itself.
	ErrDamaged = errors.New("layer record is damaged")
	// ErrForged, in an error that is ErrDamaged too: the record was not written with the
	// vault's key, or its chain is not the one it was made on.
	ErrForged = authentic.ErrForged
	// ErrOldFormat, in an error that is ErrDamaged too: a record without authentication, in
	// a vault that was upgraded.
	ErrOldFormat = authentic.ErrOldFormat
	// ErrOtherImage: the image is not the one that the layer's record names.
	ErrOtherImage = errors.New("not the image of the layer's record")
	// ErrCutOff: a layer tar ended within an entry, or its connection broke.
	ErrCutOff = errors.New("layer tar is truncated")
	// ErrInterrupted: an earlier attempt to fill this layer broke off, so the
	// stream at hand may lack its beginning.
	ErrInterrupted = errors.New("an earlier transfer into this layer broke off")
	// ErrNotFresh: the operation needs a layer without content.
	ErrNotFresh = errors.New("layer has content already")
	// ErrBusy: another process owns the store.
	ErrBusy = errors.New("layer store is in use by another process")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("layer store is closed")
)
