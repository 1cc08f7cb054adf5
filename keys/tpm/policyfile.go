package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// PolicyFile is a file of signed policies: by PCR bank, the PCR values that a key
// approves. It is the format of systemd-measure (its --json output, ".pcrsig"), so
// each side reads what the other signs; that one signs with RSA only.
//
//	{"sha256": [{"pcrs": [7, 11], "pkfp": "<hex>", "pol": "<hex>", "sig": "<base64>"}]}
type PolicyFile map[string][]Approval

// Approval is one set of PCR values that may open slots of the signer.
type Approval struct {
	PCRs []int    `json:"pcrs"` // ascending
	Key  hexBytes `json:"pkfp"` // SHA-256 of the public key (PKCS #1 DER, or the EC point)
	// Policy is the digest of TPM2_PolicyPCR over the values, 32 bytes. The values
	// themselves are not in the file.
	Policy hexBytes `json:"pol"`
	// Signature is over SHA-256 of Policy: PKCS #1 v1.5, or ECDSA in DER.
	Signature []byte `json:"sig"`
}

// maxPolicyBytes bounds what is read as a file of policies: an approval takes about
// 600 bytes, so this is room for a thousand.
const maxPolicyBytes = 1 << 20

// ReadPolicies reads a file of signed policies; one that is not there is empty. The
// signatures are not checked: each slot has its own signer. Error: ErrBadPolicy.
func ReadPolicies(path string) (PolicyFile, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return PolicyFile{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read signed policies: %w", err)
	}
	defer f.Close()
	return DecodePolicies(f, path)
}

// OfferedPolicies reads the file that a person names, - for stdin; it must be there.
func OfferedPolicies(stdin io.Reader, name string) (PolicyFile, error) {
	if name == "-" {
		return DecodePolicies(stdin, "standard input")
	}
	if _, err := os.Stat(name); err != nil {
		return nil, err
	}
	return ReadPolicies(name)
}

// DecodePolicies reads signed policies; name is for messages. Error: ErrBadPolicy.
func DecodePolicies(r io.Reader, name string) (PolicyFile, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPolicyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read signed policies: %w", err)
	}
	if len(data) > maxPolicyBytes {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrBadPolicy, name, maxPolicyBytes)
	}
	var file PolicyFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadPolicy, name, err)
	}
	for bank, approvals := range file {
		for i, a := range approvals {
			sel := Selection{Bank: bank, PCRs: a.PCRs}
			if _, known := banks[bank]; !known || sel.None() || sel.valid() != nil || len(a.Policy) != sha256.Size {
				return nil, fmt.Errorf("%w: %s: entry %d of bank %q", ErrBadPolicy, name, i+1, bank)
			}
		}
	}
	return file, nil
}

// SignPolicy approves the values of the selected PCRs (in its order, each as long as
// the bank's digest). It needs no TPM. Errors: ErrBadPolicyKey, ErrBadPolicy.
func SignPolicy(private crypto.Signer, sel Selection, values [][]byte) (PolicyFile, error) {
	s, err := newSigner(private.Public())
	if err != nil {
		return nil, err
	}
	if sel.None() || len(values) != len(sel.PCRs) {
		return nil, fmt.Errorf("%w: %d values given for PCRs %s", ErrBadPolicy, len(values), sel)
	}
	alg, err := banks[sel.Bank].Hash()
	if err != nil {
		return nil, fmt.Errorf("%w: unknown bank %q", ErrBadPolicy, sel.Bank)
	}
	for i, v := range values {
		if len(v) != alg.Size() {
			return nil, fmt.Errorf("%w: value of PCR %d has %d bytes, bank %s needs %d", ErrBadPolicy, sel.PCRs[i], len(v), sel.Bank, alg.Size())
		}
	}
	a := Approval{PCRs: sel.PCRs, Key: s.print}
	if a.Policy, err = pcrPolicy(sel, values); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(a.Policy)
	if a.Signature, err = private.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign the policy: %w", err)
	}
	if !s.verify(a.Policy, a.Signature) {
		return nil, fmt.Errorf("%w: new signature does not verify", ErrBadPolicyKey)
	}
	return PolicyFile{sel.Bank: {a}}, nil
}

// Add takes in the approvals of other that f does not hold yet, and counts them.
func (f PolicyFile) Add(other PolicyFile) (added int) {
	for bank, approvals := range other {
		for _, a := range approvals {
			if !slices.ContainsFunc(f[bank], a.equal) {
				f[bank] = append(f[bank], a)
				added++
			}
		}
	}
	return added
}

// equal compares what is approved, and by whom. ECDSA signatures of the same differ.
func (a Approval) equal(b Approval) bool {
	return slices.Equal(a.PCRs, b.PCRs) && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Policy, b.Policy)
}

// SignedBy gives the approvals of f whose signature by key holds.
func (f PolicyFile) SignedBy(key crypto.PublicKey) (PolicyFile, error) {
	s, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	out := PolicyFile{}
	for bank, approvals := range f {
		for _, a := range approvals {
			if s.signed(a) {
				out[bank] = append(out[bank], a)
			}
		}
	}
	return out, nil
}

// Encode gives the file's content.
func (f PolicyFile) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode signed policies: %w", err)
	}
	return append(data, '\n'), nil
}

func (s *signer) signed(a Approval) bool {
	return bytes.Equal(a.Key, s.print) && s.verify(a.Policy, a.Signature)
}
