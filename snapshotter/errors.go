package snapshotter

import (
	"archive/tar"
	"errors"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/layer"
)

// Errors a caller can ask for with errors.Is. Those that leave the package are also of one of
// containerd's classes (package errdefs).
var (
	// ErrForged: the database gives a layer another name, state or parent than the layer's own
	// record does.
	ErrForged = errors.New("snapshot database contradicts the layer's record")
	// ErrLost: the snapshot's layer does not exist.
	ErrLost = errors.New("layer of the snapshot is missing")
	// ErrUnfinished: a commit was interrupted.
	ErrUnfinished = errors.New("commit of the snapshot was interrupted; commit it again or remove it")
	// ErrBadSize: the size that a label asks for is none, too small or too large.
	ErrBadSize = errors.New("invalid size")
	// ErrClosed: the snapshotter was closed.
	ErrClosed = errors.New("snapshotter is closed")
	// ErrNotOurs, in an error that is errdefs.ErrNotImplemented too: the mounts, or the kind of
	// blob, are for another differ.
	ErrNotOurs = errors.New("not for this differ")
	// ErrBadBlob: a blob is not what its descriptor says.
	ErrBadBlob = errors.New("blob does not match its descriptor")
)

// classes maps errors of this house to those that containerd knows. The first match counts.
var classes = []struct {
	err, class error
}{
	{ErrForged, errdefs.ErrDataLoss},
	{ErrLost, errdefs.ErrFailedPrecondition},
	{ErrUnfinished, errdefs.ErrFailedPrecondition},
	{ErrBadSize, errdefs.ErrInvalidArgument},
	{ErrBadBlob, errdefs.ErrInvalidArgument},
	{ErrClosed, errdefs.ErrUnavailable},
	{ErrNotOurs, errdefs.ErrNotImplemented},
	{layer.ErrBadName, errdefs.ErrInvalidArgument},
	{layer.ErrTooDeep, errdefs.ErrInvalidArgument},
	{layer.ErrState, errdefs.ErrFailedPrecondition},
	{layer.ErrInUse, errdefs.ErrFailedPrecondition},
	{layer.ErrCutOff, errdefs.ErrInvalidArgument},
	{tar.ErrHeader, errdefs.ErrInvalidArgument},
	{ext4.ErrBadTar, errdefs.ErrInvalidArgument},
	{layer.ErrInterrupted, errdefs.ErrFailedPrecondition},
	{layer.ErrDamaged, errdefs.ErrDataLoss},
	{layer.ErrOtherImage, errdefs.ErrDataLoss},
	{layer.ErrClosed, errdefs.ErrUnavailable},
	{crypt.ErrNoSpace, errdefs.ErrResourceExhausted},
	{unix.ENOSPC, errdefs.ErrResourceExhausted},
	{unix.EDQUOT, errdefs.ErrResourceExhausted},
}

// classified is an error with its class, which its text does not repeat.
type classified struct {
	error
	class error
}

func (e classified) Unwrap() []error { return []error{e.error, e.class} }

// classify adds the class to an error. One that has a class already keeps it.
func classify(err error) error {
	if err == nil || errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) || errdefs.IsInvalidArgument(err) ||
		errdefs.IsFailedPrecondition(err) || errdefs.IsNotImplemented(err) {
		return err
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return classified{err, c.class}
		}
	}
	return err
}
