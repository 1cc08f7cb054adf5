// Package tpm keeps a tier key with a TPM 2.0: a random wrapping key is sealed in a
// KeyedHash object under the storage root key, by default under the values of PCRs
// (TPM 2.0 part 1, section 23.4 "sealed data"; part 3, PolicyPCR). The object lies in
// the key ring, so no space in the TPM is used.
//
// Against a probe on the bus, secrets go in and out only in sessions that are salted
// with the storage root key and encrypt their parameters (AES-128-CFB). The name of
// that key is kept in the slot: a replaced TPM, or an interposer with a key of its
// own, is found before anything is asked of it.
package tpm

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"

	"layervault/keys"
)

// Name is the provider's name in the ring and on the command line.
const Name = "tpm"

// Config selects the TPM, and the policy of new slots.
type Config struct {
	// Path is a TPM device or the unix socket of an emulator; "" = DefaultPath.
	Path string
	// PCRs is the selection to which a new slot is sealed; the zero value is "none".
	// Existing slots carry their own selection.
	PCRs Selection
	// AllowZeroPCRs accepts a bank in which nothing was measured (see checkBank). For
	// machines that have a TPM but whose firmware measures nothing, and for tests.
	AllowZeroPCRs bool
	// SignedBy, when set, may approve other PCR values for a new slot (see
	// SignPolicy): ECDSA P-256 or RSA. It wants PCRs.
	SignedBy crypto.PublicKey
	// Policies is the file of signed policies for slots with a signer; "" for none. It
	// is read at each unlocking.
	Policies string
	// NewPIN, when set, gives the PIN of a new slot (the result is wiped).
	NewPIN func(ctx context.Context) ([]byte, error)
	// KeepPIN: NewPIN is the existing PIN of a resealed slot. Its length is not checked
	// again: a machine must recover after an update.
	KeepPIN bool
	// PIN, when set, gives the PIN of a slot that wants one (the result is wiped).
	// Without it such a slot answers keys.ErrNeedsPerson: guessing would run the TPM
	// into lockout.
	PIN func(ctx context.Context) ([]byte, error)
}

// Provider implements keys.Provider.
type Provider struct{ cfg Config }

// New makes a provider. It does not touch the TPM.
func New(cfg Config) *Provider {
	if cfg.Path == "" {
		cfg.Path = DefaultPath
	}
	return &Provider{cfg: cfg}
}

// Name implements keys.Provider.
func (p *Provider) Name() string { return Name }

// blob is a slot in the ring. It contains all parameters of the sealing: opening or
// diagnosing a slot needs no other data.
type blob struct {
	Policy string         `json:"policy"`           // "pcr", "signed" or "none"
	PIN    *pinSalt       `json:"pin,omitempty"`    // set when the slot wants a PIN
	Bank   string         `json:"bank,omitempty"`   // unless the policy is "none"
	PCRs   []int          `json:"pcrs,omitempty"`   // ascending
	Values map[int]string `json:"values,omitempty"` // hex at sealing time, for diagnosis only
	Digest hexBytes       `json:"policy_digest,omitempty"`
	// With policy "signed": who may approve other PCR values (PKIX DER), and the
	// digest of PolicyPCR over the values at sealing time.
	Signer    []byte   `json:"signer,omitempty"`
	PCRPolicy hexBytes `json:"pcr_policy_digest,omitempty"`

	SRK hexBytes `json:"srk_name"` // name (algorithm and hash) of the storage root key
	// SRKHandle is where that key was, if it was persistent: for diagnosis only.
	SRKHandle uint32 `json:"srk_handle,omitempty"`

	Public []byte       `json:"public"`  // TPM2B_PUBLIC of the sealed object
	Secret []byte       `json:"private"` // TPM2B_PRIVATE, encrypted by the TPM
	Key    keys.Wrapped `json:"wrapped"` // the tier key under the sealed key
}

const (
	policyPCR    = "pcr"
	policySigned = "signed"
	policyNone   = "none"
)

func parseBlob(raw json.RawMessage) (*blob, error) {
	var b blob
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	switch {
	case b.Policy != policyPCR && b.Policy != policySigned && b.Policy != policyNone:
		return nil, fmt.Errorf("%w: unknown TPM policy %q", keys.ErrDamagedSlot, b.Policy)
	case (b.Policy == policyNone) != b.selection().None():
		return nil, fmt.Errorf("%w: policy %q with %d PCRs", keys.ErrDamagedSlot, b.Policy, len(b.PCRs))
	case len(b.SRK) == 0 || len(b.Public) == 0 || len(b.Secret) == 0:
		return nil, fmt.Errorf("%w: sealed object is incomplete", keys.ErrDamagedSlot)
	}
	if err := b.selection().valid(); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	if _, err := b.signer(); err != nil {
		return nil, err
	}
	return &b, nil
}

func (b *blob) selection() Selection { return Selection{Bank: b.Bank, PCRs: b.PCRs} }

// Sealing is the policy to which a slot is sealed.
type Sealing struct {
	PCRs     Selection
	PIN      bool
	SignedBy crypto.PublicKey // key that may approve other PCR values; nil for none
}

// SealingOf reads the policy of a slot, for resealing with the same one.
func SealingOf(raw json.RawMessage) (Sealing, error) {
	b, err := parseBlob(raw)
	if err != nil {
		return Sealing{}, err
	}
	out := Sealing{PCRs: b.selection(), PIN: b.PIN != nil}
	s, err := b.signer()
	if s != nil {
		out.SignedBy = s.key
	}
	return out, err
}

// Describe implements keys.Provider.
func (p *Provider) Describe(raw json.RawMessage) keys.Description {
	b, err := parseBlob(raw)
	if err != nil {
		return keys.Description{Detail: err.Error()}
	}
	d := keys.Description{PCRs: b.selection().String(), Detail: "TPM 2.0"}
	if b.PIN != nil {
		d.Detail, d.Person = "TPM 2.0 with PIN", p.cfg.PIN == nil
	}
	if s, err := b.signer(); s != nil && err == nil {
		d.Detail += fmt.Sprintf(", others signed by key %x", []byte(s.print[:4]))
	}
	return d
}
