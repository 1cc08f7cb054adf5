package recovery

import (
	"context"
	"fmt"

	"layervault/keys"
)

// flagPassphrase is the provider's flag.
const flagPassphrase = "passphrase"

// Kind is this provider for the list of all.
func Kind() keys.Kind {
	return keys.Kind{
		Name: Name,
		About: `a generated key to print and keep elsewhere; it is shown this once only.
With --passphrase, a passphrase of your own (argon2id).`,
		Flags: []keys.Flag{{
			Name: flagPassphrase, For: keys.ForEnroll, Ask: true,
			Usage: "open a recovery slot with a passphrase of your own, asked for on the terminal or read from a file (--passphrase=FILE)",
		}},
		Person: true,
		New:    newSlot,
		Open:   func(s keys.Settings) (keys.Provider, error) { return Typed(s.Typed), nil },
		Again: func(_ context.Context, s keys.Settings, slot keys.Slot) (keys.Provider, error) {
			if s.Typed == nil {
				return nil, fmt.Errorf("slot %s: %w", slot.Title(), ErrNotAnew)
			}
			return Again(slot.Blob, s.Typed)
		},
		Faults: []keys.Fault{
			{Err: ErrBadRecovery, Class: keys.ClassLocked},
			{Err: ErrNotAnew, Class: keys.ClassUsage, Step: "enroll a new recovery slot, then remove this one: layervault key enroll recovery; layervault key remove SLOT"},
		},
	}
}

// newSlot makes a provider of a slot for a generated key, or for a passphrase that a person
// chooses.
func newSlot(ctx context.Context, s keys.Settings) (keys.Provider, error) {
	from := s.New[flagPassphrase]
	if from == "" {
		return texted{New(KindKey, Generate()), true}, nil
	}
	text, err := s.Secret(ctx, from, "new recovery passphrase")
	if err != nil {
		return nil, err
	}
	return texted{New(KindPassphrase, text), false}, nil
}

// texted is a Provider whose text is its own.
type texted struct {
	*Provider
	made bool
}

// Text implements keys.Texted.
func (t texted) Text() (text []byte, made bool) { return t.text, t.made }
