// Package flags makes the flags of a command line from what the key providers want to be told
// (keys.Kind), and reads their values. It knows no provider by name.
package flags

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"layervault/keys"
	"layervault/keys/unlock"
)

// Ask is the value of a flag for a secret that was given without a file.
const Ask = "ask"

// Set are the flags of the key providers on one command line.
type Set struct {
	// Fixed are values that hold without a flag.
	Fixed keys.Values
	flags []one
}

type one struct {
	keys.Flag
	provider string
	use      keys.Use // of the verb
	value    *string  // nil: only the environment's value counts here
	flag     *pflag.Flag
	env      string // the environment's value
}

// Register adds the flags that are for one of use.
func (p *Set) Register(f *pflag.FlagSet, env func(string) string, use keys.Use) {
	for _, k := range unlock.Kinds() {
		for _, d := range k.Flags {
			fromEnv := ""
			if d.Env {
				fromEnv = env(d.Name)
			}
			if d.For&use&^keys.ForAll == 0 {
				if d.For&use != 0 {
					p.flags = append(p.flags, one{Flag: d, provider: k.Name, use: use, env: fromEnv})
				}
				continue
			}
			usage := d.Usage
			if d.Env {
				usage += " (env " + d.Name + ")"
			}
			def := d.Value
			if fromEnv != "" {
				def = fromEnv
			}
			value := f.String(d.Name, def, usage)
			flag := f.Lookup(d.Name)
			switch {
			case d.Bool:
				flag.NoOptDefVal = "true"
			case d.Ask:
				flag.NoOptDefVal = Ask
			}
			p.flags = append(p.flags, one{Flag: d, provider: k.Name, use: use, value: value, flag: flag})
		}
	}
}

// Values gives what the flags say of opening a tier, and of a new slot.
func (p *Set) Values() (set, made keys.Values) {
	set, made = maps.Clone(p.Fixed), keys.Values{}
	if set == nil {
		set = keys.Values{}
	}
	for _, f := range p.flags {
		switch {
		case f.value == nil:
			set[f.Name] = f.env
		case f.For&(keys.ForEnroll|keys.ForReseal) != 0:
			made[f.Name] = *f.value
		default:
			set[f.Name] = *f.value
			if f.New != "" && f.use&keys.ForSettings != 0 {
				made[f.New] = *f.value
			}
		}
	}
	return set, made
}

// Check refuses values that make no sense.
func (p *Set) Check() error {
	for _, f := range p.flags {
		value := f.env
		if f.value != nil {
			value = *f.value
		}
		if f.Bool && value != "" {
			if _, err := strconv.ParseBool(value); err != nil {
				return fmt.Errorf("setting %s=%q: it is true or false", f.Name, value)
			}
		}
		if f.Check != nil && f.flag != nil && f.flag.Changed {
			if err := f.Check(value); err != nil {
				return fmt.Errorf("--%s: %w", f.Name, err)
			}
		}
	}
	return nil
}

// Foreign refuses flags of a new slot that are another provider's: a slot without what was
// asked for is not to be made in silence.
func (p *Set) Foreign(provider string) error {
	for _, f := range p.flags {
		if f.flag != nil && f.flag.Changed && f.For&keys.ForEnroll != 0 && f.provider != provider {
			return fmt.Errorf("--%s is for %s slots", f.Name, f.provider)
		}
	}
	return nil
}

// About explains the providers to people who choose one.
func About() string {
	var b strings.Builder
	const indent = "\n             " // below the text of the first line
	for _, k := range unlock.Kinds() {
		fmt.Fprintf(&b, "  %-10s %s\n", k.Name, strings.ReplaceAll(k.About, "\n", indent))
	}
	for _, k := range unlock.Kinds() {
		if k.Help != "" {
			b.WriteString("\n" + k.Help + "\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Names lists the providers of new slots.
func Names() []string {
	var names []string
	for _, k := range unlock.Kinds() {
		names = append(names, k.Name)
	}
	return names
}
