package layer

import (
	"errors"

	"layervault/internal/authentic"
)

// Errors a caller can ask for with errors.Is.
var (
	// ErrBadID: not a valid layer id. See ValidateID.
	ErrBadID = errors.New("invalid layer id")
	// ErrBadName: not a name that a record can hold.
	ErrBadName = errors.New("invalid layer name")
	// ErrState: the layer's state forbids the operation.
	ErrState = errors.New("wrong state of the layer")
	// ErrNotFound: there is no such layer. A half-made layer is not found either.
	ErrNotFound = errors.New("no such layer")
	// ErrExists: a layer of this id was made with other arguments.
	ErrExists = errors.New("layer already exists")
	// ErrInUse: the layer is the parent of another; remove the child first.
	ErrInUse = errors.New("layer is in use")
	// ErrTooDeep: a chain has more layers than overlayfs can stack.
	ErrTooDeep = errors.New("layer chain is too long")
	// ErrDamaged: a record cannot be read or contradicts itself.
	ErrDamaged = errors.New("layer record is damaged")
	// ErrForged, in an error that is ErrDamaged too: the record was not written with the
	// vault's key, or its chain is not the one it was made on.
	ErrForged = authentic.ErrForged
	// ErrOldFormat, in an error that is ErrDamaged too: a record without authentication, in
	// a vault that was upgraded.
	ErrOldFormat = authentic.ErrOldFormat
	// ErrOtherImage: the image is not the one that the layer's record names.
	ErrOtherImage = errors.New("image does not match the layer record")
	// ErrCutOff: a layer tar ended within an entry, or its connection broke.
	ErrCutOff = errors.New("layer tar is truncated")
	// ErrInterrupted: an earlier attempt to fill this layer was interrupted, so the
	// current stream may lack its start.
	ErrInterrupted = errors.New("an earlier transfer into this layer was interrupted")
	// ErrNotFresh: the operation needs a layer without content.
	ErrNotFresh = errors.New("layer already has content")
	// ErrNotFinal: the layer's content can still change, so it is not sealed.
	ErrNotFinal = errors.New("layer can still change")
	// ErrDiffers: the tree in a new image is not that in the image that it should replace.
	ErrDiffers = errors.New("new image does not show what the old one does")
	// ErrBusy: another process owns the store.
	ErrBusy = errors.New("layer store is in use by another process")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("layer store is closed")
)
