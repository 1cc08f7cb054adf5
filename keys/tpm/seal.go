package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
)

// Wrap implements keys.Provider: it seals a new random wrapping key to the configured
// PCRs as they are now, unseals it again to prove that it opens, and wraps key with it.
func (p *Provider) Wrap(ctx context.Context, binding keys.Binding, key []byte) (_ json.RawMessage, err error) {
	d, err := open(ctx, p.cfg.Path)
	if err != nil {
		return nil, err
	}
	defer d.Close()

	kek := make([]byte, keys.KeySize)
	defer clear(kek)
	_, _ = rand.Read(kek) // never fails since Go 1.24

	b, err := p.seal(ctx, d, kek)
	if err != nil {
		return nil, err
	}
	if b.Key, err = keys.WrapKey(kek, binding, key); err != nil {
		return nil, err
	}
	return json.Marshal(b) //nolint:gosec // encrypted by the TPM
}

func (p *Provider) seal(ctx context.Context, d *device, kek []byte) (*blob, error) {
	sel := p.cfg.PCRs
	b := &blob{Policy: policyNone}
	values, err := d.readPCRs(sel)
	if err != nil {
		return nil, err
	}
	if !sel.None() {
		if !p.cfg.AllowZeroPCRs {
			if err := d.checkBank(sel, values); err != nil {
				return nil, err
			}
		}
		b.Policy, b.Bank, b.PCRs, b.Values = policyPCR, sel.Bank, sel.PCRs, map[int]string{}
		for i, n := range sel.PCRs {
			b.Values[n] = hex.EncodeToString(values[i])
		}
	}
	if p.cfg.SignedBy != nil {
		if err := d.name(b, p.cfg.SignedBy, values); err != nil {
			return nil, err
		}
	}
	var auth []byte
	if p.cfg.NewPIN != nil {
		if auth, err = p.newAuth(ctx, d, b); err != nil {
			return nil, err
		}
		defer clear(auth)
	}
	if b.Digest, err = b.digest(); err != nil {
		return nil, err
	}
	srk, err := d.chooseRoot()
	if err != nil {
		return nil, err
	}
	defer d.releaseRoot(srk)
	b.SRK = srk.name.Buffer
	if !srk.transient {
		b.SRKHandle = uint32(srk.handle)
	}
	if err := d.create(srk, b, kek, auth); err != nil {
		return nil, err
	}
	// PCRs may have moved between reading and now, and a chip may be faulty: a slot is
	// worth something only when it has opened once.
	back, err := d.unseal(srk, b, nil, auth)
	if err != nil {
		return nil, fmt.Errorf("new sealed key does not open, nothing was changed: %w", err)
	}
	defer clear(back)
	if !bytes.Equal(back, kek) {
		return nil, fmt.Errorf("TPM unsealed a different key, nothing was changed: %w", keys.ErrWrongKey)
	}
	return b, nil
}

// newAuth gives b a PIN, which the TPM must protect well enough.
func (p *Provider) newAuth(ctx context.Context, d *device, b *blob) ([]byte, error) {
	b.PIN = newPINSalt()
	if p.cfg.KeepPIN {
		return b.PIN.authValue(ctx, p.cfg.NewPIN, nil)
	}
	rules, err := d.lockoutRules()
	if err != nil {
		return nil, err
	}
	return b.PIN.authValue(ctx, p.cfg.NewPIN, rules.judge)
}

// name puts the signer of later policies into b, and has the TPM load the key: one that
// it cannot verify with would be found out only when it is needed.
func (d *device) name(b *blob, key crypto.PublicKey, values [][]byte) error {
	if b.Policy != policyPCR {
		return fmt.Errorf("%w: a signed policy needs at least one PCR", ErrBadPolicy)
	}
	s, err := newSigner(key)
	if err != nil {
		return err
	}
	handle, err := d.loadSigner(s)
	if err != nil {
		return err
	}
	d.flush(handle)
	b.Policy = policySigned
	if b.PCRPolicy, err = pcrPolicy(b.selection(), values); err != nil {
		return err
	}
	b.Signer, err = x509.MarshalPKIXPublicKey(key)
	return err
}

// create makes the sealed object and puts it into b.
func (d *device) create(srk *root, b *blob, kek, auth []byte) error {
	rsp, err := tpm2.Create{
		ParentHandle: srk.authorised(),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: auth},
			Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: kek}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type:    tpm2.TPMAlgKeyedHash,
			NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{
				FixedTPM:    true, // never leaves this TPM
				FixedParent: true,
				// With a policy nothing but the policy opens it. Without one the
				// (empty) auth value does: bound to the TPM alone.
				UserWithAuth: len(b.Digest) == 0,
				// Wrong PINs count towards lockout; where there is no PIN, others'
				// failures must not lock us out.
				NoDA: b.PIN == nil,
			},
			AuthPolicy: tpm2.TPM2BDigest{Buffer: b.Digest},
		}),
	}.Execute(d)
	if err != nil {
		return fmt.Errorf("seal the key: %w", d.explain(err))
	}
	b.Public, b.Secret = tpm2.Marshal(rsp.OutPublic), tpm2.Marshal(rsp.OutPrivate)
	return nil
}
