package recovery

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/argon2"

	"layervault/keys"
)

// Name is the provider's name in the ring and on the command line.
const Name = keys.RecoveryProvider

// MinPassphrase is the least length of a chosen passphrase in bytes. Who holds the
// disk can guess offline, so short ones are refused however slow the KDF is.
const MinPassphrase = 12

// What argon2id costs: the second recommended option of RFC 9106, section 4 (64 MiB,
// three passes, four lanes), which the small devices that this runs on can spare.
const (
	argonTime   = 3
	argonMemory = 64 << 10 // KiB
	argonLanes  = 4
)

// Bounds of what a slot may ask for, so that a forged ring cannot take all memory.
const (
	maxArgonTime   = 64
	maxArgonMemory = 1 << 20 // KiB, 1 GiB
)

// TextKind says what text a slot opens with.
type TextKind string

// The kinds of recovery slots.
const (
	KindKey        TextKind = "key"        // Generate's output; full entropy, a fast KDF is enough
	KindPassphrase TextKind = "passphrase" // a person's choice; argon2id
)

// Provider implements keys.Provider.
type Provider struct {
	kind TextKind
	text []byte
}

// New makes a provider of new slots that open with text. It does not copy text: the
// caller wipes it afterwards.
func New(kind TextKind, text []byte) *Provider { return &Provider{kind: kind, text: text} }

// Typed makes a provider that opens slots of either kind with what a person typed.
// A nil text makes one that only describes slots.
func Typed(text []byte) *Provider { return &Provider{text: text} }

// Again makes a provider of a slot like that of raw, for another key: the same text
// opens it. As with New, the caller wipes text. Error: keys.ErrDamagedSlot.
func Again(raw json.RawMessage, text []byte) (*Provider, error) {
	var b blob
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	return New(b.Kind, text), nil
}

// Name implements keys.Provider.
func (p *Provider) Name() string { return Name }

// blob is a slot in the ring.
type blob struct {
	Kind   TextKind     `json:"kind"`
	Hint   string       `json:"hint,omitempty"`   // of a generated key: 8 hex digits that tell keys apart
	Argon2 *argonParams `json:"argon2,omitempty"` // of a passphrase
	Key    keys.Wrapped `json:"wrapped"`
}

type argonParams struct {
	Salt   []byte `json:"salt"` // 16 random bytes
	Time   uint32 `json:"time"` // passes
	Memory uint32 `json:"memory_kib"`
	Lanes  uint8  `json:"lanes"`
}

// Wrap implements keys.Provider.
func (p *Provider) Wrap(_ context.Context, binding keys.Binding, key []byte) (json.RawMessage, error) {
	b := blob{Kind: p.kind}
	if p.kind == KindPassphrase {
		if len(p.text) < MinPassphrase {
			return nil, &BadRecovery{Reason: fmt.Sprintf("passphrase is too short, minimum is %d characters", MinPassphrase)}
		}
		b.Argon2 = &argonParams{Salt: make([]byte, 16), Time: argonTime, Memory: argonMemory, Lanes: argonLanes}
		_, _ = rand.Read(b.Argon2.Salt) // never fails since Go 1.24
	}
	kek, err := p.derive(&b)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	if b.Kind == KindKey {
		if b.Hint, err = hint(kek); err != nil {
			return nil, err
		}
	}
	if b.Key, err = keys.WrapKey(kek, binding, key); err != nil {
		return nil, err
	}
	return json.Marshal(b)
}

// Unwrap implements keys.Provider. Errors: keys.ErrNeedsPerson when nothing was typed,
// *BadRecovery with the mistyped groups, or without any for another key.
func (p *Provider) Unwrap(_ context.Context, binding keys.Binding, raw json.RawMessage) ([]byte, error) {
	if len(p.text) == 0 {
		return nil, fmt.Errorf("%w: enter the recovery key", keys.ErrNeedsPerson)
	}
	var b blob
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	kek, err := p.derive(&b)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	key, err := keys.UnwrapKey(kek, binding, b.Key)
	if err == nil {
		return key, nil
	}
	if b.Kind == KindKey {
		if got, hintErr := hint(kek); hintErr == nil && got != b.Hint {
			return nil, &BadRecovery{Reason: fmt.Sprintf("typed correctly, but key %s is not %s of this slot", got, b.Hint)}
		}
		return nil, fmt.Errorf("%w: recovery key is right, but the slot was moved or changed", keys.ErrDamagedSlot)
	}
	return nil, &BadRecovery{Reason: "wrong passphrase"}
}

// Describe implements keys.Provider.
func (p *Provider) Describe(raw json.RawMessage) keys.Description {
	d := keys.Description{Person: true}
	var b blob
	switch err := json.Unmarshal(raw, &b); {
	case err != nil:
		d.Detail = "damaged"
	case b.Kind == KindPassphrase:
		d.Detail = "passphrase"
	default:
		d.Detail = "key " + b.Hint
	}
	return d
}

// derive gives the wrapping key of a slot from the text; the caller wipes it.
func (p *Provider) derive(b *blob) ([]byte, error) {
	switch b.Kind {
	case KindKey:
		return Decode(p.text)
	case KindPassphrase:
		a := b.Argon2
		if a == nil || len(a.Salt) < 8 || a.Time < 1 || a.Time > maxArgonTime ||
			a.Memory < 8 || a.Memory > maxArgonMemory || a.Lanes < 1 {
			return nil, fmt.Errorf("%w: argon2 parameters are missing or out of bounds", keys.ErrDamagedSlot)
		}
		return argon2.IDKey(p.text, a.Salt, a.Time, a.Memory, a.Lanes, keys.KeySize), nil
	default:
		return nil, fmt.Errorf("%w: unknown recovery kind %q", keys.ErrDamagedSlot, b.Kind)
	}
}

// hint is what a printed recovery key and its slot have in common, 8 hex digits derived from
// the key, so that the right sheet of paper can be found.
func hint(kek []byte) (string, error) {
	sum, err := hkdf.Key(sha256.New, kek, nil, "layervault/1/recovery-hint", 4)
	if err != nil {
		return "", fmt.Errorf("derive recovery hint: %w", err)
	}
	return hex.EncodeToString(sum), nil
}
