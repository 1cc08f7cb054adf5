package keys

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Enroll adds a slot of p that opens key, and returns it. key must be this ring's
// (ErrWrongKey).
func (r *Ring) Enroll(ctx context.Context, key *TierKey, p Provider, label string) (Slot, error) {
	if p == nil {
		return Slot{}, ErrNoProvider
	}
	var slot Slot
	err := r.change(ctx, key, func(body *ringBody) error {
		var err error
		if slot, err = newSlot(ctx, *body, key, p, label); err != nil {
			return err
		}
		body.Slots = append(body.Slots, slot)
		return nil
	})
	return slot, err
}

// Reseal replaces slot id by a new one of p (of the same kind), keeping its id and
// label. The old blob is replaced only when the new one is on disk.
func (r *Ring) Reseal(ctx context.Context, key *TierKey, id string, p Provider) (Slot, error) {
	var slot Slot
	err := r.change(ctx, key, func(body *ringBody) error {
		i := indexOf(body.Slots, id)
		if i < 0 {
			return fmt.Errorf("%w: %q", ErrNotFound, id)
		}
		old := body.Slots[i]
		if old.Provider != p.Name() {
			return fmt.Errorf("re-seal slot %s with %q: %w", old.Title(), p.Name(), ErrUnknownProvider)
		}
		slot = Slot{ID: old.ID, Provider: old.Provider, Label: old.Label, Created: now()}
		err := key.use(func(k []byte) (err error) {
			slot.Blob, err = p.Wrap(ctx, body.binding(slot), k)
			return err
		})
		if err != nil {
			return fmt.Errorf("re-seal slot %s: %w", old.Title(), err)
		}
		body.Slots[i] = slot
		return nil
	})
	return slot, err
}

// RecoveryProvider is the provider whose last slot Remove keeps.
const RecoveryProvider = "recovery"

// Remove drops slot id; key must be this ring's. Without force it keeps the last slot, and
// the last recovery slot (ErrLastSlot). With force the last slot goes too: that destroys
// the tier, and the empty ring stays to say so.
//
// The slot's bytes are overwritten on the disk, in both copies. Earlier copies of the
// ring, and blocks that the file system or the disk relocated, are not overwritten: until
// Rotate, such a copy together with the slot's secret still gives the tier key.
func (r *Ring) Remove(ctx context.Context, key *TierKey, id string, force bool) error {
	return r.change(ctx, key, func(body *ringBody) error {
		i := indexOf(body.Slots, id)
		if i < 0 {
			return fmt.Errorf("%w: %q in %s", ErrNotFound, id, r.store.path)
		}
		slot := body.Slots[i]
		if len(body.Slots) == 1 && !force {
			return fmt.Errorf("%w: removing slot %s would leave no way to open the tier; --force removes it anyway", ErrLastSlot, slot.Title())
		}
		if slot.Provider == RecoveryProvider && countOf(body.Slots, RecoveryProvider) == 1 && !force {
			return fmt.Errorf("%w: removing slot %s would leave no recovery key; --force removes it anyway", ErrLastSlot, slot.Title())
		}
		body.Slots = append(body.Slots[:i:i], body.Slots[i+1:]...)
		return nil
	})
}

func countOf(slots []Slot, provider string) int {
	n := 0
	for _, s := range slots {
		if s.Provider == provider {
			n++
		}
	}
	return n
}

// prove checks that key is the ring's tier key, and that the ring was written with it.
// Errors: ErrWrongKey, *ForgedRing.
func (r ringBody) prove(key *TierKey) error {
	check, err := key.checkValue(r.version, r.ID)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(check), []byte(r.Check)) != 1 {
		return fmt.Errorf("%w: not the tier key of ring %s", ErrWrongKey, r.ID)
	}
	return r.authentic(key)
}

// Adopt accepts a tier key from outside (escrow), if it is this ring's, and wipes raw.
// Errors: ErrWrongKey, ErrDamagedSlot for a wrong length.
func (r *Ring) Adopt(raw []byte) (*TierKey, error) {
	key, err := tierKeyFrom(raw)
	if err != nil {
		return nil, err
	}
	if err := r.Proves(key); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

// Unlock tries the slots, in the order of providers and then of the ring, until one
// opens; providers that need no person come first. Each try is bounded, see timeoutOf.
// The caller closes the key. If none opens the error is a *LockedError with a reason for
// each slot; the end of ctx is one of the reasons, and so are ErrForgedRing and, for
// slots without a recovery key, the anchor's errors (see Anchor).
func (r *Ring) Unlock(ctx context.Context, providers ...Provider) (*TierKey, Slot, error) {
	key, slot, err := r.unlock(ctx, providers)
	if errors.Is(err, ErrOlderRing) && r.reload() {
		// Another process wrote the ring after it was loaded.
		key, slot, err = r.unlock(ctx, providers)
	}
	return key, slot, err
}

func (r *Ring) unlock(ctx context.Context, providers []Provider) (*TierKey, Slot, error) {
	body := r.snapshot()
	reasons := map[string]error{}
	for _, p := range providers {
		for _, slot := range body.Slots {
			if slot.Provider != p.Name() || reasons[slot.ID] != nil {
				continue
			}
			key, err := body.open(ctx, slot, p)
			if err == nil && slot.Provider != RecoveryProvider && !r.copied {
				if err = r.checkAnchor(ctx, key, body); err != nil {
					err = errors.Join(err, key.Close())
				}
			}
			if err == nil {
				return key, slot, nil
			}
			reasons[slot.ID] = err
		}
	}
	locked := &LockedError{Ring: r.store.path}
	for _, slot := range body.Slots {
		err := reasons[slot.ID]
		switch {
		case err != nil:
		case slot.Provider == RecoveryProvider:
			err = fmt.Errorf("%w: enter the recovery key", ErrNeedsPerson)
		default:
			err = fmt.Errorf("not tried, provider %q is not configured here: %w", slot.Provider, ErrUnknownProvider)
		}
		locked.Slots = append(locked.Slots, &SlotError{Slot: slot, Err: err})
	}
	return nil, Slot{}, locked
}

// open unwraps one slot and proves the key.
func (r ringBody) open(ctx context.Context, slot Slot, p Provider) (*TierKey, error) {
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(p))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := p.Unwrap(ctx, r.binding(slot), slot.Blob)
	if err != nil {
		return nil, err
	}
	key, err := tierKeyFrom(raw)
	if err != nil {
		return nil, err
	}
	if err := r.prove(key); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}
