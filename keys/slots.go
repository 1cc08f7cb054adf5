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

// Reseal makes slot id anew with p (of the same kind), keeping its id and label.
// The old blob is replaced only when the new one is on disk.
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

// RecoveryProvider is the provider whose last slot is guarded by Remove.
const RecoveryProvider = "recovery"

// Remove drops slot id; key must be this ring's. Without force it keeps the last slot, and
// the last recovery slot (ErrLastSlot). With force the last slot goes too: that destroys
// the tier, and the empty ring stays to say so.
//
// The slot's bytes are overwritten on the disk, in both copies. What was copied before, or
// what the file system or the disk moved elsewhere, is not reached: the slot still gives
// the tier key to those who have such a copy and what opens it, until Rotate.
func (r *Ring) Remove(ctx context.Context, key *TierKey, id string, force bool) error {
	return r.change(ctx, key, func(body *ringBody) error {
		i := indexOf(body.Slots, id)
		if i < 0 {
			return fmt.Errorf("%w: %q in %s; see \"layervault key list\"", ErrNotFound, id, r.store.path)
		}
		slot := body.Slots[i]
		if len(body.Slots) == 1 && !force {
			return fmt.Errorf("%w: without slot %s nothing opens this tier any more; enroll another one first, or give --force", ErrLastSlot, slot.Title())
		}
		if slot.Provider == RecoveryProvider && countOf(body.Slots, RecoveryProvider) == 1 && !force {
			return fmt.Errorf("%w: without slot %s there is no recovery key; enroll another one first, or give --force", ErrLastSlot, slot.Title())
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

// prove checks that key is the ring's tier key, and that its holder wrote the ring.
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

// Adopt takes a tier key that came from elsewhere (escrow), when it is this ring's, and
// wipes raw. Errors: ErrWrongKey, ErrDamagedSlot for one of another length.
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

// Unlock tries the slots, in the order of providers and then of the ring, until
// one opens; put what needs no person first. Each try is bounded, see timeoutOf.
// The caller closes the key. When none opens the error is a *LockedError with a
// reason for each slot; ctx's end is one of the reasons, and so are ErrForgedRing and, of
// slots that need no recovery key, what the anchor says against the ring (see Anchor).
func (r *Ring) Unlock(ctx context.Context, providers ...Provider) (*TierKey, Slot, error) {
	key, slot, err := r.unlock(ctx, providers)
	if errors.Is(err, ErrOlderRing) && r.reload() {
		// Written by another process since it was loaded.
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
			err = fmt.Errorf("%w: type the recovery key", ErrNeedsPerson)
		default:
			err = fmt.Errorf("not tried, provider %q is not set up here: %w", slot.Provider, ErrUnknownProvider)
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
