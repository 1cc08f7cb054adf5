package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"layervault/keys"
)

// readPCRs returns the values of the selection, in its order. TPM2_PCR_Read gives at
// most eight at a time. A bank that the TPM does not keep: ErrPCRBank.
func (d *device) readPCRs(sel Selection) ([][]byte, error) {
	var values [][]byte
	for rest := sel.PCRs; len(rest) > 0; {
		ask := Selection{Bank: sel.Bank, PCRs: rest[:min(8, len(rest))]}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: ask.list()}.Execute(d)
		if err != nil {
			return nil, fmt.Errorf("read PCRs %s: %w", ask, d.explain(err))
		}
		if len(rsp.PCRValues.Digests) != len(ask.PCRs) {
			return nil, fmt.Errorf("%w: TPM has no %s values for PCRs %s", ErrPCRBank, ask.Bank, ask)
		}
		for _, v := range rsp.PCRValues.Digests {
			values = append(values, v.Buffer)
		}
		rest = rest[len(ask.PCRs):]
	}
	return values, nil
}

// checkBank rejects a bank without measurements: a key sealed to it would open whatever
// boots. PCR 0 (firmware) and 4 (boot loader) are never zero on a machine that measures
// its boot, and a selection of only zeros or only FF proves nothing.
func (d *device) checkBank(sel Selection, values [][]byte) error {
	refuse := func(what string) error {
		return fmt.Errorf("%w: %s in bank %s, so the boot is not measured", ErrPCRBank, what, sel.Bank)
	}
	if allBytes(values, 0) {
		return refuse("every chosen PCR is zero")
	}
	if allBytes(values, 0xff) {
		return refuse("every chosen PCR is FF")
	}
	boot, err := d.readPCRs(Selection{Bank: sel.Bank, PCRs: []int{0, 4}})
	if err != nil {
		return err
	}
	for i, n := range []int{0, 4} {
		if allBytes(boot[i:i+1], 0) {
			return refuse(fmt.Sprintf("PCR %d is zero", n))
		}
	}
	return nil
}

func allBytes(values [][]byte, b byte) bool {
	for _, v := range values {
		if len(bytes.Trim(v, string([]byte{b}))) != 0 {
			return false
		}
	}
	return true
}

// pcrPolicy computes the digest of TPM2_PolicyPCR, without the TPM:
//
//	SHA256(0^32 || TPM_CC_PolicyPCR || selection || SHA256(values ascending))
//
// (TPM 2.0 part 3, section 23.7).
func pcrPolicy(sel Selection, values [][]byte) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(bytes.Join(values, nil))
	step := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: sum[:]}, Pcrs: sel.list()}
	if err := step.Update(calc); err != nil {
		return nil, fmt.Errorf("compute PCR policy: %w", err)
	}
	return calc.Hash().Digest, nil
}

// digest computes what the sealed object's authPolicy must be: PolicyPCR, or that
// or PolicyAuthorize, and after it TPM_CC_PolicyAuthValue with a PIN (section 23.17).
// Nil for no PCRs and no PIN: then the object's empty auth value is used.
func (b *blob) digest() ([]byte, error) {
	sel, pin := b.selection(), b.PIN != nil
	if sel.None() && !pin {
		return nil, nil
	}
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	branches, err := b.branches()
	switch {
	case err != nil:
		return nil, err
	case branches != nil:
		err = tpm2.PolicyOr{PHashList: *branches}.Update(calc)
	case !sel.None():
		var values [][]byte
		if values, err = b.sealedValues(); err != nil {
			return nil, err
		}
		sum := sha256.Sum256(bytes.Join(values, nil))
		err = tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: sum[:]}, Pcrs: sel.list()}.Update(calc)
	}
	if err != nil {
		return nil, fmt.Errorf("compute PCR policy: %w", err)
	}
	if pin {
		if err := calc.Update(tpm2.TPMCCPolicyAuthValue); err != nil {
			return nil, fmt.Errorf("compute PIN policy: %w", err)
		}
	}
	return calc.Hash().Digest, nil
}

// branches of the PolicyOr of a slot with a signer; nil without one.
func (b *blob) branches() (*tpm2.TPMLDigest, error) {
	s, err := b.signer()
	if s == nil || err != nil {
		return nil, err
	}
	authorize, err := s.authorizePolicy()
	if err != nil {
		return nil, err
	}
	return &tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{{Buffer: b.PCRPolicy}, {Buffer: authorize}}}, nil
}

// sealedValues are the PCR values at sealing time, in the selection's order.
func (b *blob) sealedValues() ([][]byte, error) {
	values := make([][]byte, len(b.PCRs))
	for i, n := range b.PCRs {
		var err error
		if values[i], err = hex.DecodeString(b.Values[n]); err != nil {
			return nil, fmt.Errorf("%w: value of PCR %d: %w", keys.ErrDamagedSlot, n, err)
		}
	}
	return values, nil
}

// errPolicy: the TPM's PCRs do not match the sealed policy.
type errPolicy struct{ want, got []byte }

func (e *errPolicy) Error() string {
	return fmt.Sprintf("PCR policy is %x, sealed to %x", e.got, e.want)
}

// satisfy runs the policy in a session and compares the digest before the TPM does, so
// that layervault explains a mismatch, without a failed authorisation. t is nil unless
// a signed policy is to be used.
func satisfy(b *blob, t *ticket) tpm2.PolicyCallback {
	return func(tpm transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		sel := b.selection()
		if t != nil {
			sel = t.sel
		}
		if !sel.None() {
			if _, err := (tpm2.PolicyPCR{PolicySession: session, Pcrs: sel.list()}).Execute(tpm); err != nil {
				return fmt.Errorf("PCR policy: %w", err)
			}
		}
		if err := b.join(tpm, session, t); err != nil {
			return err
		}
		if b.PIN != nil {
			if _, err := (tpm2.PolicyAuthValue{PolicySession: session}).Execute(tpm); err != nil {
				return fmt.Errorf("PIN policy: %w", err)
			}
		}
		return expectPolicy(tpm, session, b.Digest)
	}
}

// join runs what follows PolicyPCR in a slot with a signer: PolicyAuthorize when a
// ticket is used, and the PolicyOr of both branches.
func (b *blob) join(tpm transport.TPM, session tpm2.TPMISHPolicy, t *ticket) error {
	branches, err := b.branches()
	if branches == nil || err != nil {
		return err
	}
	if t == nil {
		// Else the TPM would refuse with a code that says less.
		if err := expectPolicy(tpm, session, b.PCRPolicy); err != nil {
			return err
		}
	} else {
		_, err := tpm2.PolicyAuthorize{
			PolicySession:  session,
			ApprovedPolicy: tpm2.TPM2BDigest{Buffer: t.approved.Policy},
			KeySign:        t.signer.name,
			CheckTicket:    t.verified,
		}.Execute(tpm)
		if err != nil {
			return fmt.Errorf("signed policy: %w", err)
		}
	}
	if _, err := (tpm2.PolicyOr{PolicySession: session, PHashList: *branches}).Execute(tpm); err != nil {
		return fmt.Errorf("PCR or signed policy: %w", err)
	}
	return nil
}

func expectPolicy(tpm transport.TPM, session tpm2.TPMISHPolicy, want []byte) error {
	rsp, err := tpm2.PolicyGetDigest{PolicySession: session}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	if !bytes.Equal(rsp.PolicyDigest.Buffer, want) {
		return &errPolicy{want: want, got: rsp.PolicyDigest.Buffer}
	}
	return nil
}

// changed compares the current PCR values with those at sealing time (hex by PCR
// index).
func changed(sel Selection, sealed map[int]string, values [][]byte) []*keys.PCRMismatch {
	var out []*keys.PCRMismatch
	for i, n := range sel.PCRs {
		if now := hex.EncodeToString(values[i]); now != sealed[n] {
			out = append(out, &keys.PCRMismatch{Index: n, Bank: sel.Bank, Old: sealed[n], New: now})
		}
	}
	return out
}
