package keys

import (
	"context"
	"encoding/json"
	"errors"
)

// Kind is one kind of key provider, the only interface between a provider and the rest
// of layervault. Each provider's package defines one, and keys/unlock lists them; no
// other code names a provider. So a new provider is a folder, and a line in that list.
type Kind struct {
	// Name is the name in the ring and on the command line: "tpm", "versatile", ...
	Name string
	// About describes the kind in one line for users; Help has more, starts with a heading
	// line, and may be empty.
	About, Help string
	// Flags are the options of the kind.
	Flags []Flag

	// Hardware holds the wrapping keys; nil for software-only kinds. Anyone with write
	// access to the disk can make a software-only slot, so such a slot opens only if the
	// setting names the provider.
	Hardware *Hardware
	// Person: the slots open with a typed secret. They open under any settings, and a
	// vault is never created with such a slot by settings alone.
	Person bool

	// New makes the provider that seals a new slot, as s.New describes it.
	New func(ctx context.Context, s Settings) (Provider, error)
	// Open makes the provider that opens slots of the kind.
	Open func(s Settings) (Provider, error)
	// Again makes the provider that reseals a slot as before, except for the changes in
	// s.New. Nil means New.
	Again func(ctx context.Context, s Settings, slot Slot) (Provider, error)

	// Admit returns the reason for not opening a slot without a person under these
	// settings (ErrWeakSlot), beyond the rules of Hardware and Person. It may be nil.
	Admit func(s Settings, blob json.RawMessage) error
	// Unsteady lists reasons why a slot may fail to open early in the next boot; without a
	// blob, the slot that s.New describes. It may be nil.
	Unsteady func(s Settings, blob json.RawMessage) []Finding
	// Outside names the requirements of a slot that a copy of the ring does not contain. It
	// may be nil.
	Outside func(s Settings) string

	// Faults are the provider's errors and their handling.
	Faults []Fault
}

// Hardware is the chip, or the kernel service over it, on which slots depend. A change of
// the chip, or of the booted software, can lock a slot; key recover then reseals it.
type Hardware struct {
	// Title names the hardware in messages: "TPM".
	Title string
	// Present returns the reason why the hardware is missing; nil if it is present. A nil
	// Present is not called.
	Present func(s Settings) error
	// Anchor makes the anchor of a ring; nil if the hardware has none.
	Anchor func(s Settings) Anchor
	// Check examines the hardware for layervault doctor. Wanted: the settings name the
	// provider. Slots are all slots of the vault's ring.
	Check func(s Settings, wanted bool, slots []Slot) []Finding
}

// Verdict is the result of one check.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "ok"
	Warning Verdict = "warning" // works, but should be fixed
	Missing Verdict = "missing" // essential: nothing works without it
)

// Finding is the result of one check of this machine.
type Finding struct {
	Verdict Verdict
	Detail  string
	Fix     string // the command that fixes it, "" for none
}

// Class is the class of an error, which selects the exit code.
type Class int

// The classes of errors.
const (
	ClassFailed  Class = iota // of no class
	ClassUsage                // the command line or a setting is wrong
	ClassLocked               // the tier does not open
	ClassDamaged              // data on the disk is broken
	ClassHost                 // the machine lacks something
	ClassMissing              // something that was named does not exist
)

// Fault is one error of a provider and its handling.
type Fault struct {
	Err   error
	Class Class
	// Step is the next step for the user, usually a command; "" if there is none.
	Step string
	// StepFor, if not nil, is asked before Step: it reads from the error what the command
	// needs, and returns "" for an error that does not say.
	StepFor func(error) string
	// Telling: the step is more specific than the general one for locked tiers.
	Telling bool
}

// Next is the next step after err, "" if err is another or there is none.
func (f Fault) Next(err error) string {
	if !errors.Is(err, f.Err) {
		return ""
	}
	if f.StepFor != nil {
		if step := f.StepFor(err); step != "" {
			return step
		}
	}
	return f.Step
}

// Texted is a Provider of a new slot that opens with a text.
type Texted interface {
	Provider
	// Text is the secret that opens the slot. Made: it was generated just now, and must be
	// shown to the person, once. The caller wipes it after Wrap.
	Text() (text []byte, made bool)
}
