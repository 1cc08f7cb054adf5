package keys

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
)

// Settings are the input from which a Kind makes its providers.
type Settings struct {
	Tier string // folder of the tier, absolute: /persist/vault
	// Unmeasured: the tier opens before attestation, its slots need not depend on what
	// booted.
	Unmeasured bool
	// Set has the values of the kind's flags for opening the tier.
	Set Values
	// New has the values of those flags that describe a new slot.
	New Values
	// Secret reads a secret that the value of a flag names: a file, or the terminal. what is
	// the secret's display name ("PIN"). The caller wipes the result.
	Secret func(ctx context.Context, from, what string) ([]byte, error)
	// Typed is the secret that a person typed to open the tier; nil for none. The code that
	// asked for it wipes it.
	Typed []byte
	Log   *slog.Logger // nil for none
}

// Values are the values of flags by their names. A flag that was not given has none, or its
// default.
type Values map[string]string

// With gives a copy in which name has another value.
func (v Values) With(name, value string) Values {
	out := maps.Clone(v)
	if out == nil {
		out = Values{}
	}
	out[name] = value
	return out
}

// Bool reads the value of a flag that is true or false; one that was not given is false.
func (v Values) Bool(name string) (bool, error) {
	if v[name] == "" {
		return false, nil
	}
	yes, err := strconv.ParseBool(v[name])
	if err != nil {
		return false, fmt.Errorf("%s=%q: must be true or false", name, v[name])
	}
	return yes, nil
}

// Flag is an option of a kind, as a flag of the command line and as a setting of the
// plugin.
type Flag struct {
	Name  string
	Usage string // one line
	Value string // the default
	For   Use
	// Env: the environment variable of that name is the value if the flag is not given.
	// Settings of the plugin always have one.
	Env bool
	// Bool: the value is true or false, and the flag alone means true.
	Bool bool
	// Ask: the value names a file with a secret, and the flag alone asks on the terminal.
	Ask bool
	// New names the flag of ForEnroll for which a setting of the plugin is used when the
	// plugin creates the vault. "" for none.
	New string
	// Check returns the reason why a given value is invalid. It may be nil.
	Check func(value string) error
}

// Use is the purpose of a flag, which selects the verbs that have it. Flags for opening
// a tier end up in Settings.Set, flags that describe a slot in Settings.New.
type Use uint16

// The uses.
const (
	ForSettings Use = 1 << iota // a setting of the plugin, and of verbs that open the vault as it does
	ForMaking                   // a setting of the plugin, and of verbs that make the vault or seal a slot; with ForAll
	ForKeys                     // every key verb
	ForAll                      // a setting that counts for the key verbs too, which have no such flag
	ForPerson                   // key verbs by which a person unlocks
	ForEnroll                   // a new slot
	ForReseal                   // a resealed slot
)
