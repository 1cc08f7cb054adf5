package unlock

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"layervault/keys"
)

// What opens a tier without a person must be what the settings ask for: who can write to
// the switched-off disk can put a ring of his own there, with slots that are easy to make.
//
//   - A slot of software alone opens only where the setting names its provider: one of a
//     kind without hardware (a key file; a key service, which wraps any key that it is
//     given), and one that says of itself that its hardware protects nothing.
//   - What a kind asks of its slots beyond that is Kind.Admit: a tpm slot must be sealed to
//     the configured PCRs at least.
//
// What a person types opens whatever it fits; key reseal then makes the slot as strong as
// it should be.

// guarded refuses slots before the provider is asked.
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
			return c.named(k.Name, "anybody who can write to the disk could have made it")
		case p.Describe(blob).Software:
			return c.named(k.Name, "no chip that protects anything is behind it")
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
		setting = "the setting is key=" + c.Provider
	}
	return fmt.Errorf("%w: %s, and %s; if you chose such a slot yourself, say so with key=%s (--key %s)", keys.ErrWeakSlot, setting, why, provider, provider)
}
