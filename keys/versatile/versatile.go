// Package versatile keeps a tier key with a key file: 32 random bytes that only their
// owner may read. It is for machines without hardware that could hold a key. On a
// stolen disk that holds the file too it protects nothing, so it is reported as
// software only.
package versatile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"layervault/keys"
)

// Name is the provider's name in the ring and on the command line.
const Name = "versatile"

// FileName is the usual name of the key file; it lies beside the tiers, not in one.
const FileName = "versatile.key"

// Provider implements keys.Provider.
type Provider struct{ path string }

// New makes a provider for the key file at path (absolute). Wrap makes the file when
// it is missing; Unwrap never does.
func New(path string) *Provider { return &Provider{path: path} }

// Name implements keys.Provider.
func (p *Provider) Name() string { return Name }

// blob is a slot in the ring.
type blob struct {
	File string       `json:"file"` // where the key file was at the time; the setting counts
	Key  keys.Wrapped `json:"wrapped"`
}

// Wrap implements keys.Provider.
func (p *Provider) Wrap(_ context.Context, b keys.Binding, key []byte) (json.RawMessage, error) {
	kek, err := readKeyFile(p.path)
	if errors.Is(err, ErrNoKeyFile) {
		kek, err = createKeyFile(p.path)
	}
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	wrapped, err := keys.WrapKey(kek, b, key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(blob{File: p.path, Key: wrapped})
}

// Unwrap implements keys.Provider. Errors: ErrNoKeyFile, keys.ErrBadMode,
// ErrBadKeyFile, keys.ErrWrongKey.
func (p *Provider) Unwrap(_ context.Context, b keys.Binding, raw json.RawMessage) ([]byte, error) {
	var slot blob
	if err := json.Unmarshal(raw, &slot); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	kek, err := readKeyFile(p.path)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	key, err := keys.UnwrapKey(kek, b, slot.Key)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", p.path, err)
	}
	return key, nil
}

// Describe implements keys.Provider.
func (p *Provider) Describe(raw json.RawMessage) keys.Description {
	d := keys.Description{Software: true, Detail: "software only"}
	var slot blob
	if json.Unmarshal(raw, &slot) == nil && slot.File != "" {
		d.Detail += ", key file " + slot.File
	}
	return d
}
