package keys

import (
	"context"
	"encoding/json"
)

// Provider wraps the tier key for one kind of slot. Constructing one touches no
// hardware; only Wrap and Unwrap do.
type Provider interface {
	// Name is what the ring stores and what people type: "tpm", "versatile", ...
	Name() string
	// Wrap makes the blob of a new slot: the wrapped key and all that explains it.
	// It proves that the blob opens before it returns it. It must not keep key.
	Wrap(ctx context.Context, b Binding, key []byte) (blob json.RawMessage, err error)
	// Unwrap gives the tier key back; the caller wipes it. It returns ErrNeedsPerson
	// when the slot wants something that was not given.
	Unwrap(ctx context.Context, b Binding, blob json.RawMessage) (key []byte, err error)
	// Describe explains a blob of this provider without touching hardware.
	Describe(blob json.RawMessage) Description
}

// Description is what a slot's blob says about itself. It holds no secret.
type Description struct {
	PCRs     string // "sha256:0-4,6-9,12-14", "none", or "" where PCRs mean nothing
	Software bool   // true: on a stolen disk this slot protects nothing
	Person   bool   // true: opens only with what a person types
	Detail   string // one line for people, for example the key file's path
}
