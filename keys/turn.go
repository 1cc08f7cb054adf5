package keys

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"
)

// previousKey is the old tier key during a rotation.
type previousKey struct {
	Check string    `json:"check"` // as ringBody.Check
	Begun time.Time `json:"begun"`
	Key   Wrapped   `json:"wrapped"` // under the tier key
}

// previousBinding is the binding of a previousKey. No provider has this name.
func (r ringBody) previousBinding() Binding {
	return Binding{RingID: r.ID, SlotID: "previous", Provider: "rotation"}
}

// turn makes the new key and writes the ring that wraps it. The key comes back with an
// error too, if it was made.
func (r *Ring) turn(ctx context.Context, old *TierKey, plan Rotation) (next *TierKey, err error) {
	err = r.changeKey(ctx, old, func(body *ringBody) (*TierKey, error) {
		if body.Previous != nil {
			return nil, fmt.Errorf("%w: another process started a rotation of %s", ErrBusy, r.store.path)
		}
		var err error
		if next, err = newTierKey(); err != nil {
			return nil, err
		}
		slots, err := body.carry(ctx, next, plan)
		if err != nil {
			return nil, err
		}
		turned := *body
		turned.Slots, turned.version = slots, ringVersion
		if turned.Check, err = next.checkValue(turned.version, body.ID); err != nil {
			return nil, err
		}
		turned.Previous = &previousKey{Check: body.Check, Begun: now()}
		err = next.use(func(kek []byte) error {
			return old.use(func(k []byte) (err error) {
				turned.Previous.Key, err = WrapKey(kek, body.previousBinding(), k)
				return err
			})
		})
		if err != nil {
			return nil, fmt.Errorf("keep the old tier key: %w", err)
		}
		back, err := turned.unwrapPrevious(next) // never write what would lose the images
		if err != nil {
			return nil, err
		}
		*body = turned
		return next, back.Close()
	})
	return next, err
}

// carry wraps the new key for each slot that is kept.
func (r ringBody) carry(ctx context.Context, next *TierKey, plan Rotation) ([]Slot, error) {
	drop := map[string]bool{}
	for _, id := range plan.Drop {
		drop[id] = true
	}
	var slots []Slot
	for _, s := range r.Slots {
		if drop[s.ID] {
			continue
		}
		p := plan.Carry[s.ID]
		if p == nil || p.Name() != s.Provider {
			return nil, &SlotError{Slot: s, Err: fmt.Errorf("%w: no provider to wrap the new key; drop the slot, or supply its provider", ErrNeedsPerson)}
		}
		made := Slot{ID: s.ID, Provider: s.Provider, Label: s.Label, Created: now()}
		err := next.use(func(k []byte) (err error) {
			made.Blob, err = p.Wrap(ctx, r.binding(made), k)
			return err
		})
		if err != nil {
			return nil, &SlotError{Slot: s, Err: err}
		}
		slots = append(slots, made)
	}
	if len(slots) == 0 {
		return nil, fmt.Errorf("%w: the new key would have no slot", ErrLastSlot)
	}
	return slots, nil
}

// previousKey returns the old key of the rotation; the caller closes it.
func (r ringBody) previousKey(key *TierKey) (*TierKey, error) {
	if err := r.prove(key); err != nil {
		return nil, err
	}
	return r.unwrapPrevious(key)
}

func (r ringBody) unwrapPrevious(key *TierKey) (*TierKey, error) {
	var raw []byte
	err := key.use(func(kek []byte) (err error) {
		raw, err = UnwrapKey(kek, r.previousBinding(), r.Previous.Key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the previous tier key: %w", err)
	}
	old, err := tierKeyFrom(raw)
	if err != nil {
		return nil, err
	}
	// Of the version that the ring had before the rotation.
	for version := 1; version <= ringVersion; version++ {
		check, err := old.checkValue(version, r.ID)
		if err != nil {
			return nil, errors.Join(err, old.Close())
		}
		if subtle.ConstantTimeCompare([]byte(check), []byte(r.Previous.Check)) == 1 {
			return old, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("the previous tier key: %w", ErrWrongKey), old.Close())
}
