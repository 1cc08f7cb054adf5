package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"layervault/internal/secretio"
	"layervault/keys"
	"layervault/keys/unlock"
)

// ask is the value of a flag for a secret that was given without a file.
const ask = "ask"

// providerFlags are the flags of the key providers on one command line. Which there are is
// the providers' word (keys.Kind); this file knows none of them.
type providerFlags struct {
	set   keys.Values // what holds without a flag
	flags []providerFlag
}

type providerFlag struct {
	keys.Flag
	provider string
	value    *string // nil: only the environment's value counts here
	flag     *pflag.Flag
	env      string // the environment's value
}

// register adds the flags that are for one of use.
func (p *providerFlags) register(f *pflag.FlagSet, env func(string) string, use keys.Use) {
	for _, k := range unlock.Kinds() {
		for _, d := range k.Flags {
			fromEnv := ""
			if d.Env {
				fromEnv = env(d.Name)
			}
			if d.For&use&^keys.ForAll == 0 {
				if d.For&use != 0 {
					p.flags = append(p.flags, providerFlag{Flag: d, provider: k.Name, env: fromEnv})
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
				flag.NoOptDefVal = ask
			}
			p.flags = append(p.flags, providerFlag{Flag: d, provider: k.Name, value: value, flag: flag})
		}
	}
}

// values gives what the flags say of opening a tier, and of a new slot.
func (p *providerFlags) values() (set, made keys.Values) {
	set, made = maps.Clone(p.set), keys.Values{}
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
			if f.New != "" && f.For&keys.ForSettings != 0 {
				made[f.New] = *f.value
			}
		}
	}
	return set, made
}

// check refuses values that make no sense.
func (p *providerFlags) check() error {
	for _, f := range p.flags {
		value := f.env
		if f.value != nil {
			value = *f.value
		}
		if f.Bool && value != "" {
			if _, err := strconv.ParseBool(value); err != nil {
				return usagef("setting %s=%q: it is true or false", f.Name, value)
			}
		}
		if f.Check != nil && f.flag != nil && f.flag.Changed {
			if err := f.Check(value); err != nil {
				return &usageError{fmt.Errorf("--%s: %w", f.Name, err)}
			}
		}
	}
	return nil
}

// foreign refuses flags of a new slot that are another provider's: a slot without what was
// asked for is not to be made in silence.
func (p *providerFlags) foreign(provider string) error {
	for _, f := range p.flags {
		if f.flag != nil && f.flag.Changed && f.For&keys.ForEnroll != 0 && f.provider != provider {
			return usagef("--%s is for %s slots", f.Name, f.provider)
		}
	}
	return nil
}

// readSecret reads a secret that a flag names: a file, - for standard input, or the
// terminal. It is what providers are given.
func (a *app) readSecret(ctx context.Context, from, what string) ([]byte, error) {
	if from == ask {
		return secretio.AskTwice(ctx, a.in, a.err, what)
	}
	return secretio.Read(a.in, from)
}

// aboutProviders explains the providers to people who choose one.
func aboutProviders() string {
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

// providerNames lists the providers of new slots.
func providerNames() []string {
	var names []string
	for _, k := range unlock.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

// providerStep is what a provider says of an error: what to do, or "". Telling: only where
// that helps more than what is said of every locked tier.
func providerStep(err error, telling bool) string {
	for _, k := range unlock.Kinds() {
		for _, f := range k.Faults {
			if (f.Telling || !telling) && f.Step != "" && errors.Is(err, f.Err) {
				return f.Step
			}
		}
	}
	return ""
}

// isProviderFault says whether a provider has the error in a class.
func isProviderFault(err error, class keys.Class) bool {
	for _, k := range unlock.Kinds() {
		for _, f := range k.Faults {
			if f.Class == class && errors.Is(err, f.Err) {
				return true
			}
		}
	}
	return false
}
