package unlock

import (
	"errors"
	"slices"
	"strings"

	"layervault/keys"
	"layervault/keys/agent"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/trusted"
	"layervault/keys/versatile"
)

// Kinds lists the key providers in the order in which their slots are tried: first what is
// at hand, then the service, which may be slow, and a person's slots at the end. A new
// provider is a line here, and a folder beside this one.
func Kinds() []keys.Kind {
	return []keys.Kind{
		tpm.Kind(),
		trusted.Kind(),
		versatile.Kind(),
		agent.Kind(),
		recovery.Kind(),
	}
}

// KindNamed finds a provider by its name.
func KindNamed(name string) (keys.Kind, bool) {
	all := Kinds()
	i := slices.IndexFunc(all, func(k keys.Kind) bool { return k.Name == name })
	if i < 0 {
		return keys.Kind{}, false
	}
	return all[i], true
}

// SealedByHardware says whether a slot is one that a change of hardware, or of what boots,
// can shut, and that can be made anew without a person.
func SealedByHardware(slot keys.Slot) bool {
	k, _ := KindNamed(slot.Provider)
	return k.Hardware != nil
}

// HardwareSlots are the slots of a ring that SealedByHardware is true for.
func HardwareSlots(ring *keys.Ring) []keys.Slot {
	return slices.DeleteFunc(slices.Clone(ring.Slots()), func(s keys.Slot) bool { return !SealedByHardware(s) })
}

// Names lists, for a sentence, the providers that a setting may name: "a, b or c". Word is
// the last comma's, and prefix precedes each name.
func Names(prefix, word string) string {
	var names []string
	for _, k := range Kinds() {
		if !k.Person {
			names = append(names, prefix+k.Name)
		}
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + word + " " + names[last]
}

// Step is what a provider says of an error: what to do, or "". Telling: only where
// that helps more than what is said of every locked tier.
func Step(err error, telling bool) string {
	for _, k := range Kinds() {
		for _, f := range k.Faults {
			if step := f.Next(err); step != "" && (f.Telling || !telling) {
				return step
			}
		}
	}
	return ""
}

// HasFault says whether a provider has the error in a class.
func HasFault(err error, class keys.Class) bool {
	for _, k := range Kinds() {
		for _, f := range k.Faults {
			if f.Class == class && errors.Is(err, f.Err) {
				return true
			}
		}
	}
	return false
}
