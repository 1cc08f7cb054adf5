package keys

import (
	"context"
	"encoding/json"
)

// Kind is one kind of key provider: all that the rest of layervault knows of it. Each
// provider's package makes one, and keys/unlock lists them; nothing else asks for a
// provider by name. So a new provider is a folder, and a line in that list.
type Kind struct {
	// Name is what the ring stores and what people type: "tpm", "versatile", ...
	Name string
	// About is the kind in one line, for people who choose; Help tells more, with a line of
	// heading, and may be empty.
	About, Help string
	// Flags are what the kind wants to be told.
	Flags []Flag

	// Hardware holds the wrapping keys; nil where software alone does. Slots of software
	// alone can be made by anybody who can write to the disk, so they open only where the
	// setting names the provider.
	Hardware *Hardware
	// Person: the slots open with what a person types, so they open whatever the settings
	// say, and a vault is never made with such a slot by settings alone.
	Person bool

	// New makes what a new slot is sealed with, as s.New describes the slot.
	New func(ctx context.Context, s Settings) (Provider, error)
	// Open makes what opens the slots of the kind.
	Open func(s Settings) (Provider, error)
	// Again makes what seals slot anew as it was sealed before, but for what s.New says. Nil
	// where that is no other than New.
	Again func(ctx context.Context, s Settings, slot Slot) (Provider, error)

	// Admit says why a slot is not to be opened without a person under these settings
	// (ErrWeakSlot), beyond what Hardware and Person say. It may be nil.
	Admit func(s Settings, blob json.RawMessage) error
	// Unsteady looks for what may keep a slot from opening early in the next boot; without
	// a blob, of the slot that s.New describes. It may be nil.
	Unsteady func(s Settings, blob json.RawMessage) []Finding
	// Outside names what a slot of the kind needs that a copy of the ring does not hold. It
	// may be nil.
	Outside func(s Settings) string

	// Faults are the provider's errors, for those who must act on them.
	Faults []Fault
}

// Hardware is the chip, or what the kernel makes of it, that slots rest on. A change of it,
// or of what boots, can shut a slot; key recover then seals the slot anew.
type Hardware struct {
	// Title names the hardware in messages: "TPM".
	Title string
	// Present says why the hardware is not there; nil when it is. A nil Present is not asked.
	Present func(s Settings) error
	// Anchor makes what remembers a ring outside of the disk; nil where the hardware cannot.
	Anchor func(s Settings) Anchor
	// Check looks at the hardware for layervault doctor. Wanted: the settings name the
	// provider. Slots are all slots of the vault's ring.
	Check func(s Settings, wanted bool, slots []Slot) []Finding
}

// Verdict is the outcome of looking at one thing.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "ok"
	Warning Verdict = "warning" // works, but should be mended
	Missing Verdict = "missing" // essential: nothing works without it
)

// Finding is what was found out about one thing of this machine.
type Finding struct {
	Verdict Verdict
	Detail  string
	Fix     string // the command that mends it, "" for none
}

// Class is what an error means to the caller of a program.
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

// Fault is one error of a provider and what follows from it.
type Fault struct {
	Err   error
	Class Class
	// Step is what to do, mostly a command to type; "" where nobody knows.
	Step string
	// Telling: the step helps more than what is said of every locked tier.
	Telling bool
}

// Texted is a Provider of a new slot that opens with a text.
type Texted interface {
	Provider
	// Text is what opens the slot. Made: it was generated just now, and the person must be
	// shown it, once. The caller wipes it after Wrap.
	Text() (text []byte, made bool)
}
