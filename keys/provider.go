package keys

import (
	"context"
	"encoding/json"
)

// Provider wraps the tier key for one kind of slot. Constructing one touches no
// hardware; only Wrap and Unwrap do.
type Provider interface {
	// Name is the name in the ring and on the command line: "tpm", "versatile", ...
	Name() string
	// Wrap makes the blob of a new slot: the wrapped key and the parameters to open it.
	// Wrap checks that the blob opens before it returns. It must not keep key.
	Wrap(ctx context.Context, b Binding, key []byte) (blob json.RawMessage, err error)
	// Unwrap returns the tier key; the caller wipes it. It returns ErrNeedsPerson if the
	// slot needs a secret that was not given.
	Unwrap(ctx context.Context, b Binding, blob json.RawMessage) (key []byte, err error)
	// Describe explains a blob of this provider without touching hardware.
	Describe(blob json.RawMessage) Description
}

// Description describes a slot's blob. It holds no secret.
type Description struct {
	PCRs     string // "sha256:0-4,6-9,12-14", "none", or "" where PCRs mean nothing
	Software bool   // true: on a stolen disk this slot protects nothing
	Person   bool   // true: opens only with what a person types
	Detail   string // one line for people, for example the key file's path
}
