package vault

import (
	"context"
	"errors"

	"layervault/keys"
)

// Resealed is what became of one key slot. The JSON names are those of key recover --json.
type Resealed struct {
	Slot     string              `json:"slot"`
	Provider string              `json:"provider"`
	Changed  []*keys.PCRMismatch `json:"changed_pcrs,omitempty"` // why it did not open
	Reason   string              `json:"reason,omitempty"`       // why it did not open
	Sealed   bool                `json:"sealed"`
	Error    string              `json:"error,omitempty"` // why it was not sealed
}

// Again makes the provider that seals a slot anew as it was sealed before.
type Again = func(slot keys.Slot) (keys.Provider, error)

// Mend seals each slot anew that does not open, and has the anchor take the ring as the
// newest. A slot that cannot be sealed does not keep the others; its error is returned with
// what became of all.
func Mend(ctx context.Context, ring *keys.Ring, key *keys.TierKey, slots []keys.Slot, again Again) ([]Resealed, error) {
	var done []Resealed
	var failures []error
	for _, slot := range slots {
		r, err := mend(ctx, ring, key, slot, again)
		if err != nil {
			r.Error = err.Error()
		}
		done, failures = append(done, r), append(failures, err)
	}
	return done, errors.Join(append(failures, ring.Reanchor(ctx, key))...)
}

// mend tries a slot and seals it anew when it does not open.
func mend(ctx context.Context, ring *keys.Ring, key *keys.TierKey, slot keys.Slot, again Again) (Resealed, error) {
	r := Resealed{Slot: slot.ID, Provider: slot.Provider}
	p, err := again(slot)
	if err != nil {
		return r, err
	}
	why := ring.Try(ctx, slot.ID, p)
	if why == nil {
		return r, nil
	}
	r.Changed, r.Reason = keys.ChangedPCRs(why), why.Error()
	if _, err := ring.Reseal(ctx, key, slot.ID, p); err != nil {
		return r, err
	}
	r.Sealed = true
	return r, nil
}

// Reseal seals slots anew, and has the anchor take the ring as the newest: whatever opened the
// tier, with a recovery key also a ring that the TPM refused.
func Reseal(ctx context.Context, ring *keys.Ring, key *keys.TierKey, slots []keys.Slot, again Again) ([]Resealed, error) {
	var done []Resealed
	for _, slot := range slots {
		p, err := again(slot)
		if err != nil {
			return done, err
		}
		if _, err := ring.Reseal(ctx, key, slot.ID, p); err != nil {
			return done, err
		}
		done = append(done, Resealed{Slot: slot.ID, Provider: slot.Provider, Sealed: true})
	}
	return done, ring.Reanchor(ctx, key)
}
