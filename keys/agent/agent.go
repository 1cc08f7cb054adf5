// Package agent keeps a tier key with an external key service:
//
//   - the ocicrypt keyprovider protocol, over gRPC (unix socket or TLS) or a command. A
//     random wrapping key is handed to the service to wrap, and what it gives back (the
//     annotation) lies in the slot; to unlock, the service unwraps it.
//   - the workload-agent socket of Intel SecL (net/rpc, FetchKey and FetchKeyWithURL),
//     which has keys of its own: the tier key is wrapped with one of them.
//
// The service never sees the tier key. Its address comes from the settings, never from the
// slot: an attacker with write access to the disk could name another service, or a
// command.
package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"layervault/keys"
)

// Name is the provider's name in the ring and on the command line.
const Name = "agent"

// Provider implements keys.Provider.
type Provider struct{ addr Address }

// New makes a provider that asks the service at addr; the zero Address only describes
// slots. It connects to nothing.
func New(addr Address) *Provider { return &Provider{addr: addr} }

// Name implements keys.Provider.
func (p *Provider) Name() string { return Name }

// Patience is how long one try of a slot may take.
func (p *Provider) Patience() time.Duration {
	return p.addr.timeout + time.Duration(p.addr.polls)*p.addr.interval
}

// blob is a slot in the ring.
type blob struct {
	Protocol   string       `json:"protocol"`             // "keyprovider" or "workload-agent"
	Service    string       `json:"service"`              // where it was at the time, without parameters; the setting counts
	Annotation []byte       `json:"annotation,omitempty"` // keyprovider: what the service made of the wrapping key
	KeyID      string       `json:"key_id,omitempty"`     // workload-agent: which of its keys
	Key        keys.Wrapped `json:"wrapped"`
}

const (
	protocolKeyprovider = "keyprovider"
	protocolWorkload    = "workload-agent"
)

// Wrap implements keys.Provider.
func (p *Provider) Wrap(ctx context.Context, b keys.Binding, key []byte) (json.RawMessage, error) {
	if err := p.configured(); err != nil {
		return nil, err
	}
	slot := blob{Protocol: p.addr.protocol(), Service: p.addr.String()}
	kek, err := p.newKey(ctx, &slot)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	back, err := p.fetch(ctx, &slot)
	if err != nil {
		return nil, fmt.Errorf("service does not return the key, nothing was changed: %w", err)
	}
	defer clear(back)
	if !bytes.Equal(back, kek) {
		return nil, fmt.Errorf("%w: %s returns a different key each time, nothing was changed", ErrAgent, p.addr)
	}
	if slot.Key, err = keys.WrapKey(kek, b, key); err != nil {
		return nil, err
	}
	return json.Marshal(slot)
}

// newKey gives the wrapping key of a new slot, and puts into slot what fetches it again.
func (p *Provider) newKey(ctx context.Context, slot *blob) ([]byte, error) {
	if slot.Protocol == protocolWorkload {
		slot.KeyID = p.addr.keyID
		return p.fetch(ctx, slot)
	}
	kek := make([]byte, keys.KeySize)
	_, _ = rand.Read(kek) // never fails since Go 1.24
	var err error
	if slot.Annotation, err = p.wrap(ctx, kek); err != nil {
		clear(kek)
		return nil, err
	}
	return kek, nil
}

// Unwrap implements keys.Provider. Errors: ErrAgent, keys.ErrWrongKey,
// keys.ErrDamagedSlot, keys.ErrUnknownProvider when no service is set.
func (p *Provider) Unwrap(ctx context.Context, b keys.Binding, raw json.RawMessage) ([]byte, error) {
	var slot blob
	if err := json.Unmarshal(raw, &slot); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	if err := p.configured(); err != nil {
		return nil, fmt.Errorf("%w (at enrolment: %s)", err, slot.Service)
	}
	if slot.Protocol != p.addr.protocol() {
		return nil, fmt.Errorf("%w: slot needs a %s service, setting is %s", ErrAgent, slot.Protocol, p.addr)
	}
	kek, err := p.fetch(ctx, &slot)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	key, err := keys.UnwrapKey(kek, b, slot.Key)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", p.addr, err)
	}
	return key, nil
}

// fetch gets the wrapping key of a slot. The caller wipes it.
func (p *Provider) fetch(ctx context.Context, slot *blob) (key []byte, err error) {
	if slot.Protocol == protocolWorkload {
		key, err = p.poll(ctx, slot.KeyID)
	} else {
		key, err = p.unwrap(ctx, slot.Annotation)
	}
	if err != nil {
		return nil, err
	}
	if err := usable(key); err != nil {
		clear(key)
		return nil, fmt.Errorf("%s: %w", p.addr, err)
	}
	return key, nil
}

// usable refuses what cannot be a random key of 32 bytes: a service that failed may
// answer with nothing, with a short text, or with zeros.
func usable(key []byte) error {
	if len(key) != keys.KeySize {
		return fmt.Errorf("%w: key has %d bytes, want %d", ErrAgent, len(key), keys.KeySize)
	}
	if bytes.Count(key, key[:1]) == len(key) {
		return fmt.Errorf("%w: key is one byte repeated", ErrAgent)
	}
	return nil
}

func (p *Provider) configured() error {
	if p.addr.scheme == "" {
		return fmt.Errorf("%w: setting agent is empty, want an address such as unix:///path/of/socket", keys.ErrUnknownProvider)
	}
	return nil
}

// Describe implements keys.Provider.
func (p *Provider) Describe(raw json.RawMessage) keys.Description {
	var slot blob
	if err := json.Unmarshal(raw, &slot); err != nil {
		return keys.Description{Detail: "damaged"}
	}
	detail := slot.Protocol + " " + slot.Service
	if slot.KeyID != "" {
		detail += " key " + slot.KeyID
	}
	return keys.Description{Detail: detail}
}
