package keys

import (
	"errors"
	"fmt"
	"strings"
)

// The errors of this package, for errors.Is. Types that carry more (LockedError,
// PCRChanges, ForgedRing) match them too. The errors of a provider are in its package.
var (
	// ErrLocked: no slot of the ring opened. The error is a *LockedError with the reason
	// of each slot.
	ErrLocked = errors.New("tier is locked")
	// ErrNoRing: there is no key ring. Restore it, or create one in an empty tier.
	ErrNoRing = errors.New("no key ring")
	// ErrRingLost: there is no key ring but there are images that need it. A new
	// ring could not open them; restore keyring.json from a backup.
	ErrRingLost = errors.New("key ring is missing")
	// ErrDamagedRing: both copies of the ring are damaged; neither was touched.
	ErrDamagedRing = errors.New("both copies of the key ring are damaged")
	// ErrNewerRing: the ring is intact but was written by a newer layervault.
	ErrNewerRing = errors.New("key ring was written by a newer layervault")
	// ErrRingExists: Create found a ring.
	ErrRingExists = errors.New("key ring already exists")
	// ErrNoProvider: no key provider was named. There is no default and no empty key.
	ErrNoProvider = errors.New("no key provider is set")
	// ErrUnknownProvider: this build has no provider of that name.
	ErrUnknownProvider = errors.New("unknown key provider")
	// ErrLastSlot: removing this slot would leave no way to open the tier (or no
	// recovery).
	ErrLastSlot = errors.New("last slot of this kind")
	// ErrNotFound: the ring has no such slot.
	ErrNotFound = errors.New("no such key slot")
	// ErrAmbiguous: a name stands for more than one slot.
	ErrAmbiguous = errors.New("more than one slot begins with")
	// ErrBusy: another process holds the ring's lock.
	ErrBusy = errors.New("key ring is in use")
	// ErrPCRChanged: PCRs have other values than at sealing time; see PCRChanges.
	ErrPCRChanged = errors.New("PCRs changed")
	// ErrNeedsPerson: the slot opens only with a secret from a person.
	ErrNeedsPerson = errors.New("needs a person")
	// ErrBadMode: other users can read or own the key file.
	ErrBadMode = errors.New("key file is not private")
	// ErrWrongKey: the wrap does not open with this key, or it was moved here from
	// another ring or slot.
	ErrWrongKey = errors.New("wrong key for this slot")
	// ErrDamagedSlot: the ring is intact but this slot's blob is invalid.
	ErrDamagedSlot = errors.New("damaged key slot")
	// ErrUnfinished: a rotation could not start, or is not complete. The error is an
	// *UnfinishedError. Repair or remove the images it names, then rotate again.
	ErrUnfinished = errors.New("rotation is not complete")
	// ErrBadBackup: the file is no backup of a key ring, or was damaged.
	ErrBadBackup = errors.New("not a key ring backup")
	// ErrBadEscrow: the file is no escrowed key, is damaged, or the escrow holder's key
	// has a type that cannot wrap.
	ErrBadEscrow = errors.New("not usable for escrow")
	// ErrForgedRing: the ring was changed without its tier key. The error is a *ForgedRing
	// that names the changes.
	ErrForgedRing = errors.New("key ring was changed without its key")
	// ErrOlderRing: the anchor (a TPM) recorded a later write of this ring. The ring on
	// disk is an older copy.
	ErrOlderRing = errors.New("key ring was replaced by an older one")
	// ErrOtherRing: the anchor recorded another ring for this tier.
	ErrOtherRing = errors.New("key ring was replaced by another ring")
	// ErrAnchorLost: the anchor's record of the ring is missing, or was created without
	// the tier key.
	ErrAnchorLost = errors.New("TPM has no valid record of the key ring")
	// ErrAnchor: the anchor cannot be used, for example because the TPM has an owner
	// password.
	ErrAnchor = errors.New("TPM cannot record the key ring")
	// ErrWeakSlot: the slot could open, but protects less than the settings require.
	ErrWeakSlot = errors.New("slot is weaker than the settings require")
	// ErrClosed: the tier key was used after Close.
	ErrClosed = errors.New("tier key is closed")
)

// RecordedRing is ErrRingLost where the anchor recorded a ring for the tier: the disk of
// that ring may just not be mounted.
type RecordedRing struct{ Ring string }

func (e *RecordedRing) Error() string {
	return fmt.Sprintf("%v: TPM recorded %s for this tier", ErrRingLost, e.Ring)
}

// Is makes the error match ErrRingLost.
func (e *RecordedRing) Is(target error) bool { return target == ErrRingLost }

// WeakSlot is ErrWeakSlot with what would let the slot open.
type WeakSlot struct {
	Why            string
	Setting, Value string // the setting that accepts the slot as it is
	PCRs           string // sealed to these PCRs it were strong enough; "" if it never is
}

func (e *WeakSlot) Error() string { return fmt.Sprintf("%v: %s", ErrWeakSlot, e.Why) }

// Is makes the error match ErrWeakSlot.
func (e *WeakSlot) Is(target error) bool { return target == ErrWeakSlot }

// NotPrivate is ErrBadMode with what is wrong with the file: its owner, or its mode.
type NotPrivate struct {
	Path        string
	Mode        uint32
	Owner, Want int // user ids; the mode is wrong where they are the same
}

func (e *NotPrivate) Error() string {
	if e.Owner != e.Want {
		return fmt.Sprintf("%v: owner of %s is user %d, want %d", ErrBadMode, e.Path, e.Owner, e.Want)
	}
	return fmt.Sprintf("%v: %s has mode %04o", ErrBadMode, e.Path, e.Mode)
}

// Is makes the error match ErrBadMode.
func (e *NotPrivate) Is(target error) bool { return target == ErrBadMode }

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
	fmt.Fprintf(&b, "%v: no slot of %s could be opened", ErrLocked, e.Ring)
	for _, s := range e.Slots {
		b.WriteString("; ")
		b.WriteString(s.Error())
	}
	return b.String()
}

// Is makes the error match ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Unwrap returns the slots' errors, so errors.As finds a PCRMismatch in them.
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
