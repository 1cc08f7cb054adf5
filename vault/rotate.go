package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"layervault/keys"
	"layervault/keys/recovery"
)

// Rotation says how the key of a tier is to be replaced; see keys.Rotation for the order of
// its writes.
type Rotation struct {
	// Open opens the tier. It is called under the locks.
	Open func(ctx context.Context) (*keys.TierKey, *keys.Ring, error)
	// Again makes the provider that wraps a key as that of the slot is wrapped. Recovery slots
	// are carried over with Typed.
	Again Again
	// Typed are the recovery keys and passphrases of slots that the new key keeps. The caller
	// wipes them.
	Typed [][]byte
	// Drop are the ids of slots that the new key shall not have.
	Drop []string
	// Force gives up images that cannot be exchanged.
	Force bool
	// Progress, when set, is called after each image or record.
	Progress func(done, total int, name string)
	// Checkpoint, when set, is called before each step that reaches the disk.
	Checkpoint func(step string) error
}

// Rotate replaces the tier's key, or finishes a rotation that was cut short. The ring that it
// returns is the new one. Errors: layer.ErrBusy, ErrOtherImages, those of keys.Ring.Rotate.
func (c Contents) Rotate(ctx context.Context, r Rotation) (done keys.Rotated, ring *keys.Ring, err error) {
	release, err := c.Lock()
	if err != nil {
		return done, nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	key, ring, err := r.Open(ctx)
	if err != nil {
		return done, nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	plan := keys.Rotation{Drop: r.Drop, Force: r.Force, Progress: r.Progress, Checkpoint: r.Checkpoint}
	if !ring.Rotating() {
		if plan.Carry, err = r.carry(ctx, ring); err != nil {
			return done, ring, err
		}
	}
	done, err = c.rotate(ctx, ring, key, plan)
	return done, ring, err
}

// rotate exchanges everything of the tier that follows its key. The locks are held.
func (c Contents) rotate(ctx context.Context, ring *keys.Ring, key *keys.TierKey, plan keys.Rotation) (keys.Rotated, error) {
	images, err := c.Images()
	if err != nil {
		return keys.Rotated{}, err
	}
	records, err := c.KeyedRecords(ctx)
	if err != nil {
		return keys.Rotated{}, err
	}
	for _, im := range images {
		plan.Images = append(plan.Images, im)
	}
	plan.Images = append(plan.Images, records...)
	done, err := ring.Rotate(ctx, key, plan)
	done.Images = max(done.Images-len(records), 0) // people count images
	return done, err
}

// carry finds what wraps the new key for each slot that stays.
func (r Rotation) carry(ctx context.Context, ring *keys.Ring) (map[string]keys.Provider, error) {
	carry := map[string]keys.Provider{}
	for _, slot := range ring.Slots() {
		if slices.Contains(r.Drop, slot.ID) {
			continue
		}
		p, err := r.carrySlot(ctx, ring, slot)
		if err != nil {
			return nil, fmt.Errorf("slot %s cannot be carried over (leave it behind with --drop %s): %w", slot.Title(), slot.ID, err)
		}
		carry[slot.ID] = p
	}
	return carry, nil
}

// carrySlot finds what wraps another key as the slot's is. The slot must open now: one
// that does not would come to life again, at PCR values that no person agreed to.
func (r Rotation) carrySlot(ctx context.Context, ring *keys.Ring, slot keys.Slot) (keys.Provider, error) {
	if slot.Provider != recovery.Name {
		p, err := r.Again(slot)
		if err != nil {
			return nil, err
		}
		return p, ring.Try(ctx, slot.ID, p)
	}
	for _, text := range r.Typed {
		if ring.Try(ctx, slot.ID, recovery.Typed(text)) == nil {
			return recovery.Again(slot.Blob, text)
		}
	}
	return nil, fmt.Errorf("%w: give its key with --carry FILE", keys.ErrNeedsPerson)
}

// finishRotation ends a rotation that a crash cut short, when the tier is opened. Images
// that resist are left for a person: the others must not wait for them.
func (c Contents) finishRotation(ctx context.Context, ring *keys.Ring, key *keys.TierKey, log *slog.Logger) (err error) {
	release, err := c.Lock()
	if err != nil {
		return fmt.Errorf("finish the rotation of the tier key: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	done, err := c.rotate(ctx, ring, key, keys.Rotation{})
	if errors.Is(err, keys.ErrUnfinished) {
		log.ErrorContext(ctx, "the rotation of the tier key cannot be finished", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("finish the rotation of the tier key: %w", err)
	}
	log.InfoContext(ctx, "finished an interrupted rotation of the tier key", "images", done.Images)
	return nil
}
