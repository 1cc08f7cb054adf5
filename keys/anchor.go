package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Anchor remembers, outside of the disk, the newest write of a tier's ring, so that an
// older ring that is put back is noticed, and another one too. A TPM is one (keys/tpm).
// It has two places for each tier: a rotation of the tier key takes the other one.
//
// A place is made with an auth value that follows from the tier key. Who owns the TPM can
// delete a place and make another, but not one with that auth value: so a place that
// answers to it was made by the holder of the tier key. Who owns the TPM, and puts a ring
// and a place of his own there together, is not noticed: that takes an owner password.
//
// Order of writes, and why each crash leaves what opens:
//
//	a change of the ring      ring (g+1), then place (g+1)
//	first, or another key     place is made (begun, g+1), ring (g+1) that names it,
//	                          place (in force, g+1), the other place is removed
//
// So a ring may be one write ahead of its place, which then follows; a ring that names no
// place, or the other place, is good while this one is only begun, or not yet written.
// Nothing else is. A ring is not changed while its place cannot follow.
type Anchor interface {
	// Kind goes into the ring: "tpm-nv".
	Kind() string
	// Places gives both places, and what lies in those that exist. It needs no auth, so
	// nothing is proved by it. Errors are those of the hardware.
	Places(ctx context.Context) ([]AnchorPlace, error)
	// Read gives what lies in a place. Error: ErrAnchorLost when it does not exist or has
	// another auth value; nothing for one into which nothing was written.
	Read(ctx context.Context, place uint32, auth []byte) ([]byte, error)
	// Make makes a place with that content, in place of what is there. Error: ErrAnchor.
	Make(ctx context.Context, place uint32, auth, data []byte) error
	// Write replaces the content. Errors as Read.
	Write(ctx context.Context, place uint32, auth, data []byte) error
	// Remove deletes a place; one that does not exist is no error.
	Remove(ctx context.Context, place uint32) error
}

// AnchorPlace is one place of an Anchor.
type AnchorPlace struct {
	Place  uint32
	Exists bool
	Empty  bool   // nothing was ever written into it
	Data   []byte // unproved; nil when it cannot be read
}

// anchorPlace is where a ring is anchored.
type anchorPlace struct {
	Kind  string `json:"kind"`
	Place uint32 `json:"place"`
}

// Use lets the ring be anchored in a: from now on Unlock asks it, and changes tell it.
func (r *Ring) Use(a Anchor) { r.anchor = a }

// UseNone takes the ring as it is, whatever place it names: for who set it so. Reanchor
// then has it name none.
func (r *Ring) UseNone() { r.anchor, r.unasked = nil, true }

// Anchored says whether the ring names a place that remembers its writes. It is to be
// believed after unlocking only.
func (r *Ring) Anchored() bool { return r.snapshot().Anchor != nil }

// AnchorKind is the Kind of the anchor that the ring names, "" for none; as Anchored, it is
// to be believed after unlocking only.
func (r *Ring) AnchorKind() string {
	if a := r.snapshot().Anchor; a != nil {
		return a.Kind
	}
	return ""
}

// finding is what the anchor says of a ring.
type finding struct {
	err    error  // why the ring is not to be used
	behind bool   // the place has to follow: it is one write behind, or only begun
	other  uint32 // a place that nobody needs any more; 0 for none
	pinned uint64 // generation in the ring's own place, if that is to be believed
}

// lookUp asks the anchor about body, whose key is proved. It changes nothing.
func (r *Ring) lookUp(ctx context.Context, key *TierKey, body ringBody) (f finding) {
	if r.anchor == nil {
		if body.Anchor != nil && !r.unasked {
			f.err = fmt.Errorf("%w: it is kept in %s, which is not here", ErrAnchorLost, body.Anchor)
		}
		return f
	}
	places, err := r.anchor.Places(ctx)
	if err != nil {
		f.err = fmt.Errorf("ask what remembers the key ring: %w", err)
		return f
	}
	if body.Anchor == nil {
		f.err = r.unanchored(ctx, key, body, places)
		return f
	}
	n, err := r.readNote(ctx, key, body, body.Anchor.Place)
	if err != nil {
		f.err = err
		return f
	}
	f.pinned = n.generation
	switch {
	case n.generation > body.Generation:
		f.err = fmt.Errorf("%w: this is write %d, the TPM knows of write %d", ErrOlderRing, body.Generation, n.generation)
	case n.generation+1 < body.Generation:
		f.err = fmt.Errorf("%w: it knows of write %d, this is write %d", ErrAnchorLost, n.generation, body.Generation)
	default:
		f.behind = n.generation != body.Generation || n.phase == phaseBegun
	}
	for _, p := range places {
		if p.Exists && p.Place != body.Anchor.Place {
			f.other = p.Place
		}
	}
	return f
}

// unanchored judges a ring that names no place: there must be none, but for one that was
// begun for the next write of this very ring, or for an earlier one that failed.
func (r *Ring) unanchored(ctx context.Context, key *TierKey, body ringBody, places []AnchorPlace) error {
	for _, p := range places {
		if !p.Exists {
			continue
		}
		n, err := r.readNote(ctx, key, body, p.Place)
		switch {
		case errors.Is(err, errEmptyPlace):
			continue // made with this ring's auth value, and no further
		case err == nil && n.phase == phaseBegun && n.generation <= body.Generation+1:
			continue
		case err == nil:
			return fmt.Errorf("%w: this one names no place, the TPM knows of write %d", ErrOlderRing, n.generation)
		}
		return fmt.Errorf("%w: the TPM remembers %s, this is ring %s", ErrOtherRing, p.title(), body.ID)
	}
	return nil
}

// title says what a place claims to remember.
func (p AnchorPlace) title() string {
	if n, ok := parseNote(p.Data); ok {
		return fmt.Sprintf("ring %s, write %d (at %#x)", n.ring, n.generation, p.Place)
	}
	return fmt.Sprintf("something at %#x", p.Place)
}

func (p *anchorPlace) String() string { return fmt.Sprintf("%s at %#x", p.Kind, p.Place) }

// checkAnchor is lookUp for unlocking: what lags behind after a crash follows now.
func (r *Ring) checkAnchor(ctx context.Context, key *TierKey, body ringBody) error {
	f := r.lookUp(ctx, key, body)
	if f.err == nil && (f.behind || f.other != 0) {
		r.catchUp(ctx, key)
	}
	return f.err
}

// catchUp lets the anchor follow the ring on disk. The lock keeps a writer's place from
// being set back; where it cannot be had (a read-only disk) a later opening does it.
func (r *Ring) catchUp(ctx context.Context, key *TierKey) {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	unlock, err := r.store.lock(ctx)
	if err != nil {
		r.store.log.Warn("the TPM is one write of the key ring behind and cannot follow now", "ring", r.store.path, "err", err)
		return
	}
	defer unlock()
	body, _, err := r.store.read()
	if err == nil {
		if err = body.prove(key); err == nil {
			err = r.lookUp(ctx, key, body).err
		}
	}
	if err != nil {
		r.store.log.Warn("the TPM is one write of the key ring behind and cannot follow", "ring", r.store.path, "err", err)
		return
	}
	r.settle(ctx, key, body)
}

// settle ends a write: the ring's place says what was written, and no other place is left.
// A failure leaves the place one write behind, which the next opening mends.
func (r *Ring) settle(ctx context.Context, key *TierKey, body ringBody) {
	if r.anchor == nil || body.Anchor == nil {
		return
	}
	if err := r.settled(ctx, key, body); err != nil {
		r.store.log.Warn("the TPM does not follow this write of the key ring; layervault key recover mends it", "ring", r.store.path, "err", err)
	}
}

func (r *Ring) settled(ctx context.Context, key *TierKey, body ringBody) error {
	n, err := r.readNote(ctx, key, body, body.Anchor.Place)
	if err != nil {
		return err
	}
	if n.phase != phaseInForce || n.generation != body.Generation {
		if err := r.writeNote(ctx, key, body, phaseInForce, r.anchor.Write); err != nil {
			return err
		}
	}
	places, err := r.anchor.Places(ctx)
	if err != nil {
		return err
	}
	for _, p := range places {
		if p.Exists && p.Place != body.Anchor.Place {
			if err := r.anchor.Remove(ctx, p.Place); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin makes a place for body's next write, not the one at not, and names it in body.
func (r *Ring) begin(ctx context.Context, key *TierKey, body *ringBody, not *anchorPlace) error {
	places, err := r.anchor.Places(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(places, func(p AnchorPlace) bool { return not == nil || p.Place != not.Place })
	if i < 0 {
		return fmt.Errorf("%w: it has no room for another place", ErrAnchor)
	}
	body.Anchor = &anchorPlace{Kind: r.anchor.Kind(), Place: places[i].Place}
	return r.writeNote(ctx, key, *body, phaseBegun, r.anchor.Make)
}

// refuseIfAnchored keeps a new ring from taking the place of one that the anchor
// remembers: its disk may just not be mounted. What a crash left of a first ring does not
// count.
func (r *Ring) refuseIfAnchored(ctx context.Context) error {
	if r.anchor == nil {
		return nil
	}
	places, err := r.anchor.Places(ctx)
	if err != nil {
		return fmt.Errorf("ask what remembers the key ring: %w", err)
	}
	for _, p := range places {
		if !p.Exists || p.Empty {
			continue
		}
		if n, ok := parseNote(p.Data); ok && n.phase == phaseBegun && n.generation == 1 {
			continue
		}
		return fmt.Errorf("%w: the TPM remembers %s for this tier; mount its disk, restore it from a backup, or give it up for good: layervault key unpin",
			ErrRingLost, p.title())
	}
	return nil
}

// firstAnchor anchors a ring that is not yet, where that can be done. Where not, the ring
// is used without: Anchored says so, and status.
func (r *Ring) firstAnchor(ctx context.Context, key *TierKey, body *ringBody) {
	if r.anchor == nil {
		return
	}
	if err := r.begin(ctx, key, body, nil); err != nil {
		body.Anchor = nil
		r.store.log.Warn("the TPM cannot remember this key ring: that an older one is put back will not be noticed", "ring", r.store.path, "err", err)
	}
}

// moveAnchor prepares the anchor for a change from before, of key, to body, of next. An
// error keeps the change from being made: what follows could not be told from a ring that
// somebody put there. Where the anchor already refuses the ring, a person opened it, and
// the change is made without.
func (r *Ring) moveAnchor(ctx context.Context, key, next *TierKey, before ringBody, body *ringBody) error {
	if r.anchor == nil {
		return nil
	}
	f := r.lookUp(ctx, key, before)
	if f.err != nil {
		if next != key {
			return fmt.Errorf("%w; first: layervault key recover", f.err)
		}
		r.store.log.Warn("the TPM does not remember this key ring; layervault key recover mends it", "ring", r.store.path, "err", f.err)
		return nil
	}
	switch {
	case before.Anchor == nil:
		r.firstAnchor(ctx, next, body)
	case next != key:
		if err := r.begin(ctx, next, body, before.Anchor); err != nil {
			return fmt.Errorf("the TPM cannot remember the ring of the new tier key: %w", err)
		}
	case f.behind:
		if err := r.settled(ctx, key, before); err != nil { // never two writes behind
			return fmt.Errorf("the TPM does not follow the key ring: %w", err)
		}
	}
	return nil
}

// Reanchor makes what remembers the ring's writes follow the ring as it is now, whatever that
// says: for a person who knows why an older ring, or another TPM, is here. Without an
// anchor (Use) the ring then names none. Errors: ErrWrongKey, *ForgedRing, ErrAnchor.
func (r *Ring) Reanchor(ctx context.Context, key *TierKey) error {
	unlock, err := r.store.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	body, _, err := r.store.read()
	if err != nil {
		return err
	}
	if err := body.prove(key); err != nil {
		return err
	}
	f := r.lookUp(ctx, key, body)
	switch {
	case r.anchor == nil && body.Anchor == nil:
		return nil
	case r.anchor == nil:
		body.Anchor = nil
		body.Generation++
	case f.err == nil && body.Anchor != nil:
		r.settle(ctx, key, body)
		return nil
	case f.err == nil:
		// It names no place, and none is in its way.
		body.Generation++
		if r.firstAnchor(ctx, key, &body); body.Anchor == nil {
			return nil
		}
	case f.pinned != 0:
		// The place is ours and says something else: the ring goes past it.
		body.Generation = max(f.pinned, body.Generation) + 1
		if err := r.writeBehind(ctx, key, body); err != nil {
			return err
		}
	default:
		not := body.Anchor
		body.Generation++
		if err := r.begin(ctx, key, &body, not); err != nil {
			return err
		}
	}
	return r.commit(ctx, key, body)
}

// writeBehind has the place say one write before body, so that body, once written, is at
// most one ahead.
func (r *Ring) writeBehind(ctx context.Context, key *TierKey, body ringBody) error {
	body.Generation--
	return r.writeNote(ctx, key, body, phaseInForce, r.anchor.Write)
}
