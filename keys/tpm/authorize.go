package tpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
)

// The policy of a slot with a signer (TPM 2.0 part 3, sections 23.6 and 23.16):
//
//	PolicyOr(PolicyPCR(values at enrolment), PolicyAuthorize(signer, no qualifier))
//
// and PolicyAuthValue after it with a PIN. The first branch lets a slot be enrolled
// and opened before anything was signed; the second opens it for whatever values the
// signer approved. An approval is for ever: who can put an older system back opens the
// slot with it. Enrolling with another key, or a new PCR that counts releases, ends that.

// authorizePolicy is the digest of the second branch.
func (s *signer) authorizePolicy() ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if err := (tpm2.PolicyAuthorize{KeySign: s.name}).Update(calc); err != nil {
		return nil, fmt.Errorf("compute signed policy: %w", err)
	}
	return calc.Hash().Digest, nil
}

// signer is the slot's, nil when it has none.
func (b *blob) signer() (*signer, error) {
	if b.Policy != policySigned {
		return nil, nil
	}
	key, err := x509.ParsePKIXPublicKey(b.Signer)
	if err != nil {
		return nil, fmt.Errorf("%w: signer of the policy: %w", keys.ErrDamagedSlot, err)
	}
	return newSigner(key)
}

// ticket is the TPM's proof that the signer approved the policy.
type ticket struct {
	signer   *signer
	approved Approval
	sel      Selection
	verified tpm2.TPMTTKVerified
}

// approve finds an approval for the PCRs as they are now and has the TPM verify it. It
// returns nil when none is needed: the slot has no signer, or its PCRs are those of its
// enrolment.
func (d *device) approve(b *blob, path string) (*ticket, error) {
	s, err := b.signer()
	if s == nil || err != nil {
		return nil, err
	}
	values, err := d.readPCRs(b.selection())
	if err != nil {
		return nil, err
	}
	now, err := pcrPolicy(b.selection(), values)
	if err != nil || bytes.Equal(now, b.PCRPolicy) {
		return nil, err
	}
	t, why := d.findApproval(s, path)
	if t != nil {
		return t, d.verify(t)
	}
	diff := changed(b.selection(), b.Values, values)
	return nil, fmt.Errorf("%w: %w: %w", ErrNoPolicy, why, &keys.PCRChanges{Changed: diff})
}

// findApproval finds an approval of the current values; without one its error describes
// the file.
func (d *device) findApproval(s *signer, path string) (*ticket, error) {
	if path == "" {
		return nil, errors.New("no signed policy file is set")
	}
	file, err := ReadPolicies(path)
	if err != nil {
		return nil, err
	}
	mine, forged := 0, 0
	present := map[string][]byte{} // by selection, so that a long file costs the TPM little
	for bank, approvals := range file {
		for _, a := range approvals {
			switch {
			case !bytes.Equal(a.Key, s.print):
				continue
			case !s.signed(a):
				forged++
				continue
			}
			mine++
			sel := Selection{Bank: bank, PCRs: a.PCRs}
			now, known := present[sel.String()]
			if !known {
				now = d.presentPolicy(sel)
				present[sel.String()] = now
			}
			if bytes.Equal(now, a.Policy) {
				return &ticket{signer: s, approved: a, sel: sel}, nil
			}
		}
	}
	if forged > 0 {
		return nil, fmt.Errorf("%s has %d policies by this slot's key %x, none for the current PCR values, and %d with an invalid signature", path, mine, []byte(s.print[:4]), forged)
	}
	return nil, fmt.Errorf("%s has %d policies by this slot's key %x, none for the current PCR values", path, mine, []byte(s.print[:4]))
}

// presentPolicy is the digest over the PCRs as they are; nil for a bank that this TPM
// lacks: another approval may do.
func (d *device) presentPolicy(sel Selection) []byte {
	values, err := d.readPCRs(sel)
	if err != nil {
		return nil
	}
	now, err := pcrPolicy(sel, values)
	if err != nil {
		return nil
	}
	return now
}

// verify has the TPM check the signature of t.
func (d *device) verify(t *ticket) error {
	handle, err := d.loadSigner(t.signer)
	if err != nil {
		return err
	}
	defer d.flush(handle)
	signature, err := t.signer.forTPM(t.approved.Signature)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(t.approved.Policy) // no qualifier follows the digest
	rsp, err := tpm2.VerifySignature{
		KeyHandle: handle, Digest: tpm2.TPM2BDigest{Buffer: sum[:]}, Signature: signature,
	}.Execute(d)
	if err != nil {
		return fmt.Errorf("verify the signed policy in the TPM: %w", d.explain(err))
	}
	t.verified = rsp.Validation
	return nil
}

// loadSigner loads the public key, into the owner hierarchy: tickets of the null
// hierarchy prove nothing. The caller flushes it.
func (d *device) loadSigner(s *signer) (tpm2.TPMHandle, error) {
	rsp, err := tpm2.LoadExternal{InPublic: tpm2.New2B(s.public), Hierarchy: tpm2.TPMRHOwner}.Execute(d)
	if err != nil {
		return 0, fmt.Errorf("%w: TPM rejected the signature: %w", ErrBadPolicyKey, d.explain(err))
	}
	if !bytes.Equal(rsp.Name.Buffer, s.name.Buffer) {
		d.flush(rsp.ObjectHandle)
		return 0, fmt.Errorf("%w: TPM names the key %s, want %s", ErrBadPolicyKey,
			hex.EncodeToString(rsp.Name.Buffer), hex.EncodeToString(s.name.Buffer))
	}
	return rsp.ObjectHandle, nil
}
