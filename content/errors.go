package content

import (
	"errors"
	"fmt"
)

// Errors that a caller can ask for with errors.Is.
var (
	// ErrBadDigest: a name is no digest.
	ErrBadDigest = errors.New("not a SHA-256 digest: must be 64 hex digits in lower case, sha256: before them or not")
	// ErrDigest: the content has another digest than claimed. It was removed.
	ErrDigest = errors.New("content has another digest than claimed, and was removed")
	// ErrUser: a step was started as a user whose it is not. Every such error is a *UserError.
	ErrUser = errors.New("step of another user")
	// ErrBusy: another process works at the same content.
	ErrBusy = errors.New("content is being worked at by another process")
	// ErrOffset: a download cannot be resumed at this place. The text says at which it can.
	ErrOffset = errors.New("bad offset")
	// ErrSize: the content is longer than announced. It was removed.
	ErrSize = errors.New("content is longer than announced, and was removed")
	// ErrInterrupted: the content ended too soon. What has come is kept.
	ErrInterrupted = errors.New("content is incomplete; what has come is kept")
	// ErrNotFound: the content is not there, at least not in the area that a step takes it from.
	ErrNotFound = errors.New("no such content")
	// ErrDamaged: the store has a file of this name with other content.
	ErrDamaged = errors.New("stored content is damaged")
	// ErrNotFile: something else than a file has the name of content.
	ErrNotFile = errors.New("not a regular file")
)

// UserError says whose step it is. It matches ErrUser.
type UserError struct {
	Step       string
	Have, Want int
}

func (e *UserError) Error() string {
	return fmt.Sprintf("%s: %v: user %d may not, user %d must; run it as that user, or as root, which becomes that user", e.Step, ErrUser, e.Have, e.Want)
}

// Is makes the error match ErrUser.
func (e *UserError) Is(target error) bool { return target == ErrUser }
