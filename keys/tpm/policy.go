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
// most eight at a time. A bank that the TPM does not keep: keys.ErrPCRBank.
func (d *device) readPCRs(sel Selection) ([][]byte, error) {
	var values [][]byte
	for rest := sel.PCRs; len(rest) > 0; {
		ask := Selection{Bank: sel.Bank, PCRs: rest[:min(8, len(rest))]}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: ask.list()}.Execute(d)
		if err != nil {
			return nil, fmt.Errorf("read PCRs %s: %w", ask, d.explain(err))
		}
		if len(rsp.PCRValues.Digests) != len(ask.PCRs) {
			return nil, fmt.Errorf("%w: this TPM has no %s values for PCRs %s; choose another bank or switch this one on in the firmware",
				keys.ErrPCRBank, ask.Bank, ask)
		}
		for _, v := range rsp.PCRValues.Digests {
			values = append(values, v.Buffer)
		}
		rest = rest[len(ask.PCRs):]
	}
	return values, nil
}

// checkBank refuses a bank that nobody measures into: a key sealed to it would open
// whatever boots. PCR 0 (firmware) and 4 (boot loader) are never zero on a machine that
// measures its boot, and a selection that is all zero or all FF says nothing.
func (d *device) checkBank(sel Selection, values [][]byte) error {
	refuse := func(what string) error {
		return fmt.Errorf("%w: %s in bank %s, so the boot is not measured; choose another bank, or accept it with allow-zero-pcrs",
			keys.ErrPCRBank, what, sel.Bank)
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

// policyDigest computes what the sealed object's authPolicy must be, without the TPM:
//
//	SHA256(0^32 || TPM_CC_PolicyPCR || selection || SHA256(values ascending))
//
// and, with a PIN, extended by TPM_CC_PolicyAuthValue (TPM 2.0 part 3, sections 23.7
// and 23.17). Nil for no PCRs and no PIN: then the object's empty auth value is used.
func policyDigest(sel Selection, values [][]byte, pin bool) ([]byte, error) {
	if sel.None() && !pin {
		return nil, nil
	}
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if !sel.None() {
		sum := sha256.Sum256(bytes.Join(values, nil))
		step := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: sum[:]}, Pcrs: sel.list()}
		if err := step.Update(calc); err != nil {
			return nil, fmt.Errorf("compute PCR policy: %w", err)
		}
	}
	if pin {
		if err := calc.Update(tpm2.TPMCCPolicyAuthValue); err != nil {
			return nil, fmt.Errorf("compute PIN policy: %w", err)
		}
	}
	return calc.Hash().Digest, nil
}

// errPolicy says that the TPM's PCRs do not give the policy that was sealed to.
type errPolicy struct{ want, got []byte }

func (e *errPolicy) Error() string {
	return fmt.Sprintf("PCR policy is %x, sealed to %x", e.got, e.want)
}

// satisfy runs the policy in a session and compares the digest before the TPM does,
// so that a mismatch is ours to explain and costs no failed authorisation.
func satisfy(sel Selection, pin bool, want []byte) tpm2.PolicyCallback {
	return func(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		if !sel.None() {
			if _, err := (tpm2.PolicyPCR{PolicySession: session, Pcrs: sel.list()}).Execute(t); err != nil {
				return fmt.Errorf("PCR policy: %w", err)
			}
		}
		if pin {
			if _, err := (tpm2.PolicyAuthValue{PolicySession: session}).Execute(t); err != nil {
				return fmt.Errorf("PIN policy: %w", err)
			}
		}
		rsp, err := tpm2.PolicyGetDigest{PolicySession: session}.Execute(t)
		if err != nil {
			return fmt.Errorf("read policy: %w", err)
		}
		if !bytes.Equal(rsp.PolicyDigest.Buffer, want) {
			return &errPolicy{want: want, got: rsp.PolicyDigest.Buffer}
		}
		return nil
	}
}

// changed compares the values of now with those at sealing time (hex by PCR index).
func changed(sel Selection, sealed map[int]string, values [][]byte) []*keys.PCRMismatch {
	var out []*keys.PCRMismatch
	for i, n := range sel.PCRs {
		if now := hex.EncodeToString(values[i]); now != sealed[n] {
			out = append(out, &keys.PCRMismatch{Index: n, Bank: sel.Bank, Old: sealed[n], New: now})
		}
	}
	return out
}
