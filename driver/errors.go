package driver

import "errors"

// Errors a caller can ask for with errors.Is, beside those of package layer.
var (
	// ErrNotReady: dockerd has not called Init, and no earlier Init is on record.
	ErrNotReady = errors.New("driver is not initialised")
	// ErrUnknownOption: a storage option this driver does not have.
	ErrUnknownOption = errors.New("unknown storage option")
	// ErrBadSize: a size that is none, or too small.
	ErrBadSize = errors.New("bad size")
	// ErrBadHome: Init named no usable home directory.
	ErrBadHome = errors.New("bad home directory")
	// ErrParent: ApplyDiff named a parent that the layer does not stand on.
	ErrParent = errors.New("not the parent of the layer")
	// ErrMounted: the layer is mounted, and what was asked needs it not to be.
	ErrMounted = errors.New("layer is mounted")
	// ErrAstray: files were written beside a layer, because its mount was not seen
	// where dockerd looks for it.
	ErrAstray = errors.New("files were written beside the layer")
)
