package agent

import "errors"

// The errors of this provider that a caller can tell apart with errors.Is. What it shares
// with others is in package keys.
var (
	// ErrBadAgent: the address of a key service makes no sense.
	ErrBadAgent = errors.New("invalid key service address")
	// ErrAgent: the key service did not give a usable key. It may be down: try again.
	ErrAgent = errors.New("no key from the key service")
	// ErrCommand, in an error that is ErrAgent too: the command of the service failed.
	ErrCommand = errors.New("command failed")
)
