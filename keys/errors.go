package keys

import (
	"errors"
	"fmt"
	"strings"
)

// The errors a caller can tell apart with errors.Is. Types that carry more
// (LockedError, PCRChanges, ForgedRing) answer to them too. The errors of a provider lie in
// its package.
var (
	// ErrLocked: no slot of the ring opened. The error is a *LockedError that
	// tells why for each slot.
	ErrLocked = errors.New("the tier is locked")
	// ErrNoRing: there is no key ring. Restore it, or create one in an empty tier.
	ErrNoRing = errors.New("no key ring")
	// ErrRingLost: there is no key ring but there are images that need it. A new
	// ring could not open them; restore keyring.json from a backup.
	ErrRingLost = errors.New("the key ring is missing")
	// ErrDamagedRing: both copies of the ring are damaged; neither was touched.
	ErrDamagedRing = errors.New("both copies of the key ring are damaged")
	// ErrNewerRing: the ring is sound but a newer layervault wrote it.
	ErrNewerRing = errors.New("the key ring was written by a newer layervault")
	// ErrRingExists: Create found a ring.
	ErrRingExists = errors.New("a key ring exists already")
	// ErrNoProvider: no key provider was named. There is no default and no empty key.
	ErrNoProvider = errors.New("no key provider is set")
	// ErrUnknownProvider: the named provider is none that this build knows.
	ErrUnknownProvider = errors.New("unknown key provider")
	// ErrLastSlot: removing this slot would leave no way (or no recovery) in.
	ErrLastSlot = errors.New("this is the last such slot")
	// ErrNotFound: the ring has no such slot.
	ErrNotFound = errors.New("no such key slot")
	// ErrBusy: another process holds the ring's lock.
	ErrBusy = errors.New("the key ring is in use")
	// ErrPCRChanged: PCRs have other values than at sealing time; see PCRChanges.
	ErrPCRChanged = errors.New("PCRs changed")
	// ErrNeedsPerson: the slot opens only with something a person must give.
	ErrNeedsPerson = errors.New("needs a person")
	// ErrBadMode: others may read or own the key file.
	ErrBadMode = errors.New("key file is not private")
	// ErrWrongKey: the wrap does not open with this key, or it was moved here from
	// another ring or slot.
	ErrWrongKey = errors.New("the key does not fit this slot")
	// ErrDamagedSlot: the ring is sound but this slot's blob makes no sense.
	ErrDamagedSlot = errors.New("damaged key slot")
	// ErrUnfinished: a rotation could not begin, or is not complete. The error is an
	// *UnfinishedError. Mend or remove the images it names, then rotate again.
	ErrUnfinished = errors.New("the rotation is not complete")
	// ErrBadBackup: the file is no backup of a key ring, or was damaged.
	ErrBadBackup = errors.New("not a backup of a key ring")
	// ErrBadEscrow: the file is no escrowed key, was damaged, or the keeper's key is of
	// a kind that nothing can be wrapped to.
	ErrBadEscrow = errors.New("no use for escrow")
	// ErrForgedRing: the ring was changed by somebody who does not have its tier key. The
	// error is a *ForgedRing that names what was changed.
	ErrForgedRing = errors.New("the key ring was changed without its key")
	// ErrOlderRing: the anchor (a TPM) knows of a later write of this ring. An older copy
	// was put back.
	ErrOlderRing = errors.New("an older key ring was put in place")
	// ErrOtherRing: the anchor knows another ring for this tier.
	ErrOtherRing = errors.New("another key ring was put in place")
	// ErrAnchorLost: what remembers the ring's writes is gone, or was made anew by
	// somebody else.
	ErrAnchorLost = errors.New("the TPM no longer remembers the key ring")
	// ErrAnchor: the anchor cannot be used, for example because the TPM has an owner
	// password.
	ErrAnchor = errors.New("the TPM cannot remember the key ring")
	// ErrWeakSlot: the slot would open, but protects less than the settings ask for.
	ErrWeakSlot = errors.New("weaker than the settings ask for")
	// ErrClosed: the tier key was used after Close.
	ErrClosed = errors.New("the tier key is closed")
)

// SlotError says why one slot did not open.
type SlotError struct {
	Slot Slot
	Err  error
}

func (e *SlotError) Error() string { return fmt.Sprintf("slot %s: %v", e.Slot.Title(), e.Err) }
func (e *SlotError) Unwrap() error { return e.Err }

// LockedError is ErrLocked with the reason of every slot.
type LockedError struct {
	Ring  string // path of keyring.json
	Slots []*SlotError
}

func (e *LockedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: no slot of %s opens", ErrLocked, e.Ring)
	for _, s := range e.Slots {
		b.WriteString("; ")
		b.WriteString(s.Error())
	}
	b.WriteString(`; unlock with "layervault key recover"`)
	return b.String()
}

// Is makes the error match ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Unwrap gives the slots' errors, so errors.As finds a PCRMismatch in them.
func (e *LockedError) Unwrap() []error {
	errs := make([]error, len(e.Slots))
	for i, s := range e.Slots {
		errs[i] = s
	}
	return errs
}

// PCRMismatch is one PCR whose value is no longer the one at sealing time.
type PCRMismatch struct {
	Index int    `json:"pcr"`
	Bank  string `json:"bank"` // "sha256"
	Old   string `json:"old"`  // lower case hex, at sealing time
	New   string `json:"new"`  // lower case hex, now
}

func (e *PCRMismatch) Error() string {
	return fmt.Sprintf("PCR %d (%s) was %s and is %s", e.Index, e.Bank, e.Old, e.New)
}

// PCRChanges is the error of a slot whose PCRs changed, one entry for each.
type PCRChanges struct{ Changed []*PCRMismatch }

func (e *PCRChanges) Error() string {
	parts := make([]string, len(e.Changed))
	for i, c := range e.Changed {
		parts[i] = c.Error()
	}
	return strings.Join(parts, ", ")
}

// Is makes the error match ErrPCRChanged.
func (e *PCRChanges) Is(target error) bool { return target == ErrPCRChanged }

// Unwrap gives the single PCRs.
func (e *PCRChanges) Unwrap() []error {
	errs := make([]error, len(e.Changed))
	for i, c := range e.Changed {
		errs[i] = c
	}
	return errs
}

// ChangedPCRs collects every PCRMismatch in the tree of err, in order.
func ChangedPCRs(err error) []*PCRMismatch {
	var out []*PCRMismatch
	var walk func(error)
	walk = func(err error) {
		if m, ok := err.(*PCRMismatch); ok { //nolint:errorlint // this walks the tree itself, to find all and not the first
			out = append(out, m)
			return
		}
		switch u := err.(type) { //nolint:errorlint // see above
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	return out
}
