package trusted

import (
	"errors"
	"fmt"
)

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

// errKernel is what every KernelError matches.
var errKernel = errors.New("kernel does not seal with this source")

// KernelError is ErrNoTrusted with what the kernel was asked for.
type KernelError struct {
	Source     string // the kind of source: "caam"
	StorageKey uint32 // handle of the TPM's storage key, which may be missing; 0 if another thing is
	Why        string
	Err        error // of the kernel; nil if it gave none
}

func (e *KernelError) Error() string {
	text := fmt.Sprintf("%v: %s", ErrNoTrusted, e.Why)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Is makes the error match ErrNoTrusted.
func (e *KernelError) Is(target error) bool { return target == ErrNoTrusted || target == errKernel }
func (e *KernelError) Unwrap() error        { return e.Err }

// kernelStep gives the kernel what it lacks.
func kernelStep(err error) string {
	e, ok := errors.AsType[*KernelError](err)
	switch {
	case !ok:
		return ""
	case e.StorageKey != 0:
		return fmt.Sprintf("make the storage key: tpm2_createprimary -C o -G rsa2048 -c srk.ctx; tpm2_evictcontrol -C o -c srk.ctx %#x", e.StorageKey)
	}
	return fmt.Sprintf("modprobe trusted source=%[1]s (boot with trusted.source=%[1]s where the module is part of the kernel); or: layervault key recover", e.Source)
}
