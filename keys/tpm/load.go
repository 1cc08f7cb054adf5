package tpm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/internal/durable"
	"layervault/keys"
)

// LoadedPolicies is the outcome of LoadPolicies. The JSON names are those of key load-policy
// --json.
type LoadedPolicies struct {
	File  string   `json:"file"`
	Added int      `json:"added"`
	Total int      `json:"total"`
	Slots []string `json:"slots"` // whose signer signed what the file holds
}

// LoadPolicies adds the offered policies to the tier's file of signed policies, where
// unlocking finds them. Error: ErrBadPolicy for policies that no slot's signer signed.
func LoadPolicies(ring *keys.Ring, tier string, offered PolicyFile) (LoadedPolicies, error) {
	out := LoadedPolicies{File: PoliciesPath(tier), Slots: []string{}}
	fit := PolicyFile{}
	for _, slot := range ring.Slots() {
		if slot.Provider != Name {
			continue
		}
		sealing, err := SealingOf(slot.Blob)
		if err != nil || sealing.SignedBy == nil {
			continue
		}
		mine, err := offered.SignedBy(sealing.SignedBy)
		if err != nil {
			return out, err
		}
		if len(mine) > 0 {
			fit.Add(mine)
			out.Slots = append(out.Slots, slot.ID)
		}
	}
	if len(fit) == 0 {
		return out, fmt.Errorf("%w: no slot of %s has the key that signed it, or its signature is false", ErrBadPolicy, ring.Path())
	}
	have, err := ReadPolicies(out.File)
	if errors.Is(err, ErrBadPolicy) {
		have = PolicyFile{} // a broken file opens nothing; this one does
	} else if err != nil {
		return out, err
	}
	out.Added = have.Add(fit)
	for _, approvals := range have {
		out.Total += len(approvals)
	}
	data, err := have.Encode()
	if err != nil {
		return out, err
	}
	return out, replaceFile(out.File, data)
}

// replaceFile replaces a file of the tier, or leaves it as it was.
func replaceFile(name string, data []byte) (err error) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	base := filepath.Base(name)
	return durable.WriteFile(root, ".tmp-"+base, base, data, 0o600)
}
