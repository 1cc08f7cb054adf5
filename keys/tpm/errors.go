package tpm

import (
	"errors"
	"fmt"
	"time"

	"layervault/keys"
)

// The errors of this provider that a caller can tell apart with errors.Is. What it shares
// with others is in package keys.
var (
	// ErrNoTPM: there is no TPM at the given path, or it does not answer.
	ErrNoTPM = errors.New("no TPM")
	// ErrManyTPMs, in an error that is ErrNoTPM too: there are others, and none was chosen.
	ErrManyTPMs = errors.New("found several")
	// ErrOtherTPM: the slot was sealed by another TPM, or this one was cleared.
	ErrOtherTPM = errors.New("sealed by another TPM")
	// ErrTPMFull: the TPM has no room for what unlocking takes for a moment; see FullError.
	ErrTPMFull = errors.New("TPM has no free memory")
	// ErrForgedAnswer: what a TPM answered contradicts itself. Something between it and the
	// processor changes what passes.
	ErrForgedAnswer = errors.New("TPM response was modified in transit")
	// ErrOwnerPassword: the TPM's owner has a password, which is needed once.
	ErrOwnerPassword = errors.New("TPM owner password is set")
	// ErrPCRBank: the PCR bank is absent or holds no measurements.
	ErrPCRBank = errors.New("PCR bank is not trustworthy")
	// ErrLockout: the TPM refuses authorisation for some time; see Lockout.
	ErrLockout = errors.New("TPM is in lockout")
	// ErrRootLockout, in an error that is ErrLockout too: the slot's storage key takes part in
	// the lockout, and layervault's other slots do not.
	ErrRootLockout = errors.New("storage key is subject to the dictionary attack lockout")
	// ErrWrongPIN: the TPM refused the PIN.
	ErrWrongPIN = errors.New("wrong PIN")
	// ErrNoCounting, in an error that is ErrWeakPIN too: the TPM counts no failures.
	ErrNoCounting = errors.New("TPM counts no failures")
	// ErrWeakPIN: a new PIN is too short for what the TPM does against guessing.
	ErrWeakPIN = errors.New("PIN is too short")
	// ErrNoPIN: no PIN was given for resealing a slot with a PIN.
	ErrNoPIN = errors.New("slot needs a PIN")
	// ErrBadPCRs: a selection of PCRs makes no sense.
	ErrBadPCRs = errors.New("invalid PCR selection")
	// ErrBadPolicyKey: no TPM verifies signed policies with this key.
	ErrBadPolicyKey = errors.New("not a usable key for signed policies")
	// ErrBadPolicy: a signed policy, or what one was to be made of, makes no sense.
	ErrBadPolicy = errors.New("invalid signed policy")
	// ErrNoPolicy: the PCRs changed, and no signed policy approves the new values.
	ErrNoPolicy = errors.New("no signed policy matches")
)

// Lockout is ErrLockout with what the TPM says of it (TPM 2.0 part 1, section
// 19.8 "Dictionary attack protection").
type Lockout struct {
	Failures    int           // failed authorisations counted now
	MaxFailures int           // lockout begins at this count
	Recovery    time.Duration // one failure is forgotten after this long without a new one
}

func (e *Lockout) Error() string {
	return fmt.Sprintf("%v after %d of %d failures; one failure expires every %s",
		ErrLockout, e.Failures, e.MaxFailures, e.Recovery)
}

// Is makes the error match ErrLockout.
func (e *Lockout) Is(target error) bool { return target == ErrLockout }

// FullError is ErrTPMFull with what the TPM has no room for.
type FullError struct {
	Sessions bool // sessions; else objects
	Err      error
}

func (e *FullError) Error() string {
	if e.Sessions {
		return fmt.Sprintf("%v for another session; a program left its sessions open: %v", ErrTPMFull, e.Err)
	}
	return fmt.Sprintf("%v for another object; a program left its objects loaded: %v", ErrTPMFull, e.Err)
}

func (e *FullError) Unwrap() []error { return []error{ErrTPMFull, e.Err} }

// BankError is the error of a slot whose PCR bank the TPM does not keep any more.
type BankError struct {
	PCRs string // the slot's, without the bank: "0-4,7"
	Err  error  // ErrPCRBank
}

func (e *BankError) Error() string { return e.Err.Error() }
func (e *BankError) Unwrap() error { return e.Err }

// flushStep frees the memory that the TPM lacks.
func flushStep(err error) string {
	full, ok := errors.AsType[*FullError](err)
	if !ok {
		return ""
	}
	what := "-t"
	if full.Sessions {
		what = "-l -s"
	}
	return "tpm2_flushcontext " + what + "; let the program use /dev/tpmrm0, which separates programs"
}

// bankStep moves a slot to a bank that the TPM keeps.
func bankStep(err error) string {
	bank, ok := errors.AsType[*BankError](err)
	if !ok {
		return ""
	}
	return "enable the PCR bank in the firmware; or seal to another: layervault key reseal --recovery-key-file FILE --pcrs sha384:" + bank.PCRs
}

// faults are what follows from the errors, the most telling first.
func faults() []keys.Fault {
	const recover = "layervault key recover"
	return []keys.Fault{
		{Err: ErrNoPolicy, Telling: true, Step: "if this boot is approved: layervault key sign-policy where the private key is, then layervault key load-policy here; else: layervault key recover"},
		{Err: keys.ErrPCRChanged, Class: keys.ClassLocked, Telling: true, Step: "if you changed the firmware or kernel yourself: layervault key recover (asks for the recovery key and seals the vault again)"},
		{Err: ErrForgedAnswer, Class: keys.ClassHost, Telling: true, Step: "check the bus between processor and TPM; do not trust this machine before the cause is known"},
		{Err: ErrNoCounting, Telling: true, Step: "let the TPM count failures (tpm2_dictionarylockout -s -n 32 -t 600 -l 86400), or choose a longer PIN"},
		{Err: ErrWeakPIN, Class: keys.ClassUsage, Telling: true, Step: "give the TPM a lockout authorisation (tpm2_changeauth -c lockout PASSWORD), or choose a longer PIN"},
		{Err: ErrOwnerPassword, Class: keys.ClassHost, Telling: true, Step: persistAdvice},
		{Err: ErrRootLockout, Telling: true, Step: "wait until the lockout ends, then move the slot to another storage key: layervault key reseal; or: " + recover},
		{Err: ErrLockout, Class: keys.ClassLocked, Telling: true, Step: "wait until the lockout ends, or clear the count (tpm2_dictionarylockout -c), or: " + recover},
		{Err: ErrNoPIN, Class: keys.ClassUsage, Telling: true, Step: "give the PIN: --pin-file FILE"},
		{Err: ErrBadPCRs, Class: keys.ClassUsage, Step: "layervault key enroll --help"},
		{Err: ErrOtherTPM, Class: keys.ClassHost, Step: recover},
		{Err: ErrManyTPMs, Telling: true, Step: "choose one of the TPMs that the message names: docker plugin set layervault tpm=PATH (or --tpm PATH)"},
		{Err: ErrNoTPM, Class: keys.ClassHost, Step: "layervault doctor; without a TPM: docker plugin set layervault key=versatile"},
		{Err: ErrPCRBank, Class: keys.ClassHost, Telling: true, Step: "enable the PCR bank in the firmware, or choose another (--pcrs sha384:LIST); --allow-zero-pcrs seals all the same", StepFor: bankStep},
		{Err: ErrTPMFull, Class: keys.ClassHost, Telling: true, StepFor: flushStep},
		{Err: ErrWrongPIN, Class: keys.ClassLocked},
		{Err: ErrBadPolicyKey, Class: keys.ClassUsage},
		{Err: ErrBadPolicy, Class: keys.ClassUsage},
	}
}
