package tpm

import (
	"errors"
	"fmt"
	"time"
)

// The errors of this provider that a caller can tell apart with errors.Is. What it shares
// with others is in package keys.
var (
	// ErrNoTPM: there is no TPM at the given path, or it does not answer.
	ErrNoTPM = errors.New("no TPM")
	// ErrOtherTPM: the slot was sealed by another TPM, or this one was cleared.
	ErrOtherTPM = errors.New("sealed by another TPM")
	// ErrTPMFull: the TPM has no room for what unlocking takes for a moment.
	ErrTPMFull = errors.New("the TPM has no room")
	// ErrForgedAnswer: what a TPM answered contradicts itself. Something between it and the
	// processor changes what passes.
	ErrForgedAnswer = errors.New("the TPM's answer was changed on its way")
	// ErrOwnerPassword: the TPM's owner has a password, which is needed once.
	ErrOwnerPassword = errors.New("the TPM has an owner password")
	// ErrPCRBank: the PCR bank is absent or holds no measurements.
	ErrPCRBank = errors.New("the PCR bank cannot be trusted")
	// ErrLockout: the TPM refuses authorisation for some time; see Lockout.
	ErrLockout = errors.New("the TPM is in lockout")
	// ErrWrongPIN: the TPM refused the PIN.
	ErrWrongPIN = errors.New("wrong PIN")
	// ErrWeakPIN: a new PIN is too short for what the TPM does against guessing.
	ErrWeakPIN = errors.New("the PIN is too short")
	// ErrBadPolicyKey: no TPM verifies signed policies with this key.
	ErrBadPolicyKey = errors.New("no key for signed policies")
	// ErrBadPolicy: a signed policy, or what one was to be made of, makes no sense.
	ErrBadPolicy = errors.New("not a signed policy")
	// ErrNoPolicy: the PCRs changed, and no signed policy approves the new values.
	ErrNoPolicy = errors.New("no signed policy fits")
)

// Lockout is ErrLockout with what the TPM says of it (TPM 2.0 part 1, section
// 19.8 "Dictionary attack protection").
type Lockout struct {
	Failures    int           // failed authorisations counted now
	MaxFailures int           // lockout begins at this count
	Recovery    time.Duration // one failure is forgotten after this long without a new one
}

func (e *Lockout) Error() string {
	return fmt.Sprintf("%v after %d of %d failures; one is forgotten every %s (or reset it with tpm2_dictionarylockout -c)",
		ErrLockout, e.Failures, e.MaxFailures, e.Recovery)
}

// Is makes the error match ErrLockout.
func (e *Lockout) Is(target error) bool { return target == ErrLockout }
