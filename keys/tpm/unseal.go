package tpm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
)

// Unwrap implements keys.Provider. Errors worth telling apart: ErrNoTPM,
// ErrOtherTPM, *keys.PCRChanges, *Lockout, ErrWrongPIN,
// keys.ErrNeedsPerson, keys.ErrDamagedSlot.
func (p *Provider) Unwrap(ctx context.Context, binding keys.Binding, raw json.RawMessage) ([]byte, error) {
	b, err := parseBlob(raw)
	if err != nil {
		return nil, err
	}
	var auth []byte
	if b.PIN != nil {
		if auth, err = b.PIN.authValue(ctx, p.cfg.PIN, nil); err != nil {
			return nil, err
		}
		defer clear(auth)
		if again, err := refused.before(b.Public, auth); again || err != nil {
			return nil, errors.Join(err, fmt.Errorf("%w: TPM refused this PIN before, not tried again; correct the PIN", ErrWrongPIN))
		}
	}
	d, err := open(ctx, p.cfg.Path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	kek, err := p.unsealUnder(d, b, auth, false)
	if errors.Is(err, errRootPassword) {
		kek, err = p.unsealUnder(d, b, auth, true)
	}
	if errors.Is(err, ErrWrongPIN) {
		err = errors.Join(err, refused.add(b.Public, auth))
	}
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	return keys.UnwrapKey(kek, binding, b.Key)
}

// errRootPassword: persistent storage key has a password, so another of the same name
// is to be made.
var errRootPassword = errors.New("persistent storage key has a password")

// unsealUnder is unseal under the slot's storage key, found with again as findRoot has it.
func (p *Provider) unsealUnder(d *device, b *blob, auth []byte, again bool) ([]byte, error) {
	srk, err := d.findRoot(b.SRK, tpm2.TPMHandle(b.SRKHandle), again)
	if err != nil {
		return nil, err
	}
	defer d.releaseRoot(srk)
	// Before the object is loaded: a small TPM has room for three.
	approval, err := d.approve(b, p.cfg.Policies)
	if err != nil {
		return nil, err
	}
	return d.unseal(srk, b, approval, auth)
}

// unseal loads the object and returns its data; the caller wipes it.
func (d *device) unseal(srk *root, b *blob, approval *ticket, auth []byte) ([]byte, error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](b.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: public area: %w", keys.ErrDamagedSlot, err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](b.Secret)
	if err != nil {
		return nil, fmt.Errorf("%w: private area: %w", keys.ErrDamagedSlot, err)
	}
	contents, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("%w: public area: %w", keys.ErrDamagedSlot, err)
	}
	loaded, err := tpm2.Load{ParentHandle: srk.authorised(), InPrivate: *private, InPublic: *public}.Execute(d)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("%w: TPM rejected the sealed object: %w", keys.ErrDamagedSlot, err)
	}
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return nil, fmt.Errorf("load the sealed key: %w: %w", errRootPassword, err)
	}
	if err != nil && !srk.public.ObjectAttributes.NoDA && errors.Is(err, tpm2.TPMRCLockout) {
		return nil, fmt.Errorf("load the sealed key: %w: %#x was made without noda: %w", ErrRootLockout, uint32(srk.handle), d.explain(err))
	}
	if err != nil {
		return nil, fmt.Errorf("load the sealed key: %w", d.explain(err))
	}
	defer d.flush(loaded.ObjectHandle)
	name, err := nameOf(contents, loaded.Name)
	if err != nil {
		return nil, fmt.Errorf("load the sealed key: %w", err)
	}

	protect := []tpm2.AuthOption{tpm2.Auth(auth), tpm2.Salted(srk.handle, srk.public), tpm2.AESEncryption(128, tpm2.EncryptOut)}
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, protect...)
	if len(b.Digest) != 0 {
		session = tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, satisfy(b, approval), protect...)
	}
	rsp, err := tpm2.Unseal{
		ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: *name, Auth: session},
	}.Execute(d)
	if err != nil {
		// A session that was begun and not used up would stay in the TPM.
		if h := session.Handle(); h != tpm2.TPMRHNull {
			d.flush(h)
		}
		return nil, d.diagnose(b, err)
	}
	return rsp.OutData.Buffer, nil
}

// diagnose finds the reason of a failed unsealing. Its own errors never replace the
// failure.
func (d *device) diagnose(b *blob, failure error) error {
	var policy *errPolicy
	switch {
	case errors.Is(failure, tpm2.TPMRCAuthFail) || errors.Is(failure, tpm2.TPMRCBadAuth):
		return fmt.Errorf("%w (each wrong PIN counts towards the TPM lockout)", ErrWrongPIN)
	case errors.As(failure, &policy) || errors.Is(failure, tpm2.TPMRCPolicyFail) ||
		errors.Is(failure, tpm2.TPMRCPCRChanged) || errors.Is(failure, tpm2.TPMRCValue):
		values, err := d.readPCRs(b.selection())
		if errors.Is(err, ErrPCRBank) {
			return &BankError{PCRs: strings.TrimPrefix(b.selection().String(), b.Bank+":"), Err: err}
		}
		if err == nil {
			if diff := changed(b.selection(), b.Values, values); len(diff) > 0 {
				return &keys.PCRChanges{Changed: diff}
			}
		}
	}
	return fmt.Errorf("unseal the key: %w", d.explain(failure))
}

// explain turns a lockout into Lockout with the TPM's own numbers, and names the TPM
// memory that is full.
func (d *device) explain(err error) error {
	for _, full := range []tpm2.TPMRC{tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap} {
		if errors.Is(err, full) {
			return &FullError{Sessions: true, Err: err}
		}
	}
	for _, full := range []tpm2.TPMRC{tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles} {
		if errors.Is(err, full) {
			return &FullError{Err: err}
		}
	}
	if !errors.Is(err, tpm2.TPMRCLockout) {
		return err
	}
	lockout := &Lockout{}
	rsp, capErr := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTLockoutCounter),
		PropertyCount: 4, // counter, maximum, interval, recovery follow each other
	}.Execute(d)
	if capErr != nil {
		return lockout
	}
	props, capErr := rsp.CapabilityData.Data.TPMProperties()
	if capErr != nil {
		return lockout
	}
	for _, p := range props.TPMProperty {
		switch p.Property {
		case tpm2.TPMPTLockoutCounter:
			lockout.Failures = int(p.Value)
		case tpm2.TPMPTMaxAuthFail:
			lockout.MaxFailures = int(p.Value)
		case tpm2.TPMPTLockoutInterval:
			lockout.Recovery = time.Duration(p.Value) * time.Second
		}
	}
	return lockout
}
