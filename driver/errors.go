package driver

import "errors"

// Errors a caller can ask for with errors.Is, beside those of package layer.
var (
	// ErrNotReady: dockerd has not called Init, and no Init record exists.
	ErrNotReady = errors.New("driver is not initialised")
	// ErrUnknownOption: a storage option this driver does not have.
	ErrUnknownOption = errors.New("unknown storage option")
	// ErrBadSize: not a size, or too small.
	ErrBadSize = errors.New("invalid size")
	// ErrBadHome: Init named no usable home directory.
	ErrBadHome = errors.New("invalid home directory")
	// ErrParent: ApplyDiff named another parent than the layer has.
	ErrParent = errors.New("not the parent of the layer")
	// ErrAstray: files were written to a layer's mount point while dockerd did not see
	// the mount.
	ErrAstray = errors.New("files were written outside the layer")
	// ErrNotDeleted, in an error that is ErrAstray too: the files are still there.
	ErrNotDeleted = errors.New("cannot delete the files")
)
