// Package trusted keeps a tier key with the kernel's trusted keys (TPM, i.MX CAAM and
// DCP, TEE), with NXP's tagged keys, or with encrypted keys where there is no chip.
//
// The payload of such a key never reaches a program: keyctl(2) gives the sealed form
// only, which the chip that sealed it turns into a key inside the kernel again
// (https://docs.kernel.org/security/keys/trusted-encrypted.html). So it can open no LUKS
// slot. What it can do is to key a plain dm-crypt device: the tier key rests in the one
// sector of such a device, with a checksum. What lies in the slot is the sealed key and
// the sector's ciphertext; the device exists for the moment of writing or reading it, on
// memory of its own.
package trusted

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"layervault/crypt/dm"
	"layervault/keys"
)

// Name is the provider's name in the ring and on the command line.
const Name = "trusted"

// Config is the configuration of new slots.
type Config struct {
	// Source of new slots (ParseSource); the zero value is none, which Wrap refuses.
	// Existing slots say what they were made with.
	Source Source
	Log    *slog.Logger // of weaknesses; nil for none
}

// Provider implements keys.Provider.
type Provider struct {
	source Source
	log    *slog.Logger
	kernel kernel
}

// kernel is the provider's interface to the kernel; tests without device-mapper have an
// implementation of their own.
type kernel interface {
	// seal makes a new key of src and encrypts sector (sectorSize bytes) in place with
	// it. sealed is what opens it again, fit for JSON.
	seal(ctx context.Context, src Source, c cipher, sector []byte) (sealed string, err error)
	// open decrypts sector in place.
	open(ctx context.Context, src Source, c cipher, sealed string, sector []byte) error
	// weakness returns the reason why the chip behind src protects less than expected, or
	// "". An error means that the state is unknown.
	weakness(src Source) (string, error)
}

// New makes a provider. It touches nothing.
func New(cfg Config) *Provider {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Provider{source: cfg.Source, log: log, kernel: linux{}}
}

// Name implements keys.Provider.
func (p *Provider) Name() string { return Name }

// Wrap implements keys.Provider. Errors: ErrBadSource, ErrNoTrusted.
func (p *Provider) Wrap(ctx context.Context, b keys.Binding, key []byte) (json.RawMessage, error) {
	if p.source.None() {
		return nil, fmt.Errorf("%w: source is not set", ErrBadSource)
	}
	slot, err := p.wrap(ctx, b, key)
	if err != nil {
		return nil, err
	}
	switch slot.Weak, err = p.kernel.weakness(p.source); {
	case err != nil:
		p.log.Warn("cannot check whether the chip seals with a test key; run \"layervault doctor\" on the host", "slot", b.SlotID, "source", p.source.String(), "error", err)
	case slot.Weak != "":
		p.log.Warn("this key slot protects nothing", "slot", b.SlotID, "source", p.source.String(), "why", slot.Weak)
	}
	raw, err := json.Marshal(slot)
	if err != nil {
		return nil, fmt.Errorf("encode the key slot: %w", err)
	}
	back, err := p.Unwrap(ctx, b, raw)
	if err != nil {
		return nil, fmt.Errorf("new key slot does not open: %w", err)
	}
	defer clear(back)
	if subtle.ConstantTimeCompare(back, key) != 1 {
		return nil, fmt.Errorf("%w: new key slot returns a different key", keys.ErrDamagedSlot)
	}
	return raw, nil
}

// wrap tries the ciphers that go with the source until the kernel has one.
func (p *Provider) wrap(ctx context.Context, b keys.Binding, key []byte) (slot blob, err error) {
	for _, c := range p.source.ciphers() {
		slot = blob{Source: p.source.String(), Cipher: c.name}
		err = keys.WithSecret(sectorSize, func(sector []byte) error {
			if err := writeRecord(sector, b, key); err != nil {
				return err
			}
			if slot.Sealed, err = p.kernel.seal(ctx, p.source, c, sector); err != nil {
				return err
			}
			slot.Sector = bytes.Clone(sector) // ciphertext now
			return nil
		})
		if !errors.Is(err, dm.ErrTarget) {
			break
		}
	}
	switch {
	case errors.Is(err, dm.ErrTarget):
		return slot, fmt.Errorf("%w: dm-crypt does not accept key type %s, or has no AES (the kernel log says which): %w", ErrNoTrusted, p.source.keyType(), err)
	case err != nil:
		return slot, err
	}
	return slot, p.source.checkMaker(slot)
}

// Unwrap implements keys.Provider. Errors: ErrNoTrusted, ErrOtherChip,
// keys.ErrWrongKey, keys.ErrDamagedSlot.
func (p *Provider) Unwrap(ctx context.Context, b keys.Binding, raw json.RawMessage) ([]byte, error) {
	slot, src, c, err := parseBlob(raw)
	if err != nil {
		return nil, err
	}
	var key []byte
	err = keys.WithSecret(sectorSize, func(sector []byte) error {
		copy(sector, slot.Sector)
		if err := p.kernel.open(ctx, src, c, slot.Sealed, sector); err != nil {
			return err
		}
		key, err = readRecord(sector, b)
		return err
	})
	if err != nil {
		clear(key)
		return nil, err
	}
	return key, nil
}

// Describe implements keys.Provider.
func (p *Provider) Describe(raw json.RawMessage) keys.Description {
	slot, src, _, err := parseBlob(raw)
	if err != nil {
		return keys.Description{Detail: err.Error()}
	}
	d := keys.Description{Software: src.software() || slot.Weak != "", Detail: src.detail()}
	if slot.Weak != "" {
		d.Detail += ", PROTECTS NOTHING: " + slot.Weak
	}
	return d
}

// SourceOf reads the source of a slot, for resealing with the same one.
func SourceOf(raw json.RawMessage) (Source, error) {
	_, src, _, err := parseBlob(raw)
	return src, err
}
