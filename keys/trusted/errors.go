package trusted

import "errors"

// The errors of this provider that a caller can tell apart with errors.Is. What it shares
// with others is in package keys.
var (
	// ErrBadSource: no source of kernel trusted keys is set, or it makes no sense.
	ErrBadSource = errors.New("invalid source of trusted keys")
	// ErrNoTrusted: this kernel makes no keys of that source, or its dm-crypt takes none.
	ErrNoTrusted = errors.New("no such trusted keys in this kernel")
	// ErrOtherChip: the kernel does not open what is in the slot. Another chip sealed it,
	// or this one was cleared.
	ErrOtherChip = errors.New("kernel keys do not open this slot")
)
