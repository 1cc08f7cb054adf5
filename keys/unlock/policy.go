package unlock

import (
	"context"
	"encoding/json"
	"time"

	"layervault/keys"
)

// A tier may open without a person only as the settings require: an attacker with write
// access to the switched-off disk can replace the ring by one with slots that are easy to
// make.
//
//   - A slot of software alone opens only where the setting names its provider: one of a
//     kind without hardware (a key file; a key service, which wraps any key that it is
//     given), and one that says of itself that its hardware protects nothing.
//   - What a kind asks of its slots beyond that is Kind.Admit: a tpm slot must be sealed to
//     the configured PCRs at least.
//
// A typed secret opens any slot that it matches; key reseal then makes the slot as strong
// as required.

// guarded rejects slots before the provider is called.
type guarded struct {
	keys.Provider
	admit func(blob json.RawMessage) error
}

// Unwrap implements keys.Provider. Error: keys.ErrWeakSlot.
func (g guarded) Unwrap(ctx context.Context, b keys.Binding, blob json.RawMessage) ([]byte, error) {
	if err := g.admit(blob); err != nil {
		return nil, err
	}
	return g.Provider.Unwrap(ctx, b, blob)
}

// Patience is the provider's; see keys.Ring.Unlock.
func (g guarded) Patience() time.Duration {
	if p, ok := g.Provider.(interface{ Patience() time.Duration }); ok {
		return p.Patience()
	}
	return 0
}

// guard puts the settings before a provider.
func (c Config) guard(k keys.Kind, p keys.Provider) keys.Provider {
	if k.Person {
		return p
	}
	return guarded{p, func(blob json.RawMessage) error {
		switch {
		case k.Hardware == nil:
			return c.named(k.Name, "anyone with write access to the disk can make such a slot")
		case p.Describe(blob).Software:
			return c.named(k.Name, "no protecting chip is behind it")
		case k.Admit != nil:
			return k.Admit(c.Settings(), blob)
		}
		return nil
	}}
}

// named refuses a slot of software alone unless the setting names its provider.
func (c Config) named(provider, why string) error {
	if c.Provider == provider || c.Provider == "" && c.Looking {
		return nil
	}
	setting := "key is not set"
	if c.Provider != "" {
		setting = "setting is key=" + c.Provider
	}
	return &keys.WeakSlot{Why: setting + ", and " + why, Setting: "key", Value: provider}
}
