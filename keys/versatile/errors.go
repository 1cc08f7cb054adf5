package versatile

import "errors"

// The errors of this provider that a caller can tell apart with errors.Is. What it shares
// with others is in package keys.
var (
	// ErrBadKeyFile: the key file has the wrong length or kind.
	ErrBadKeyFile = errors.New("not a key file")
	// ErrNoKeyFile: the key file is not there.
	ErrNoKeyFile = errors.New("no key file")
)
