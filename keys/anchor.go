package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Anchor records, outside of the disk, the newest write of a tier's ring, so that a
// replay of an older ring, or another ring, is detected. A TPM is an anchor (keys/tpm).
// An anchor has two places for each tier: a rotation of the tier key uses the other
// place.
//
// A place is created with an auth value derived from the tier key. The TPM's owner can
// delete a place and create another, but not with that auth value: so a place that
// accepts the auth value was created by a holder of the tier key. An attacker who is TPM
// owner and replaces both ring and place is not detected; an owner password prevents
// that.
//
// Order of writes; after a crash at any point the ring opens:
//
//	a change of the ring      ring (g+1), then place (g+1)
//	first, or another key     place is made (begun, g+1), ring (g+1) that names it,
//	                          place (in force, g+1), the other place is removed
//
// So a ring may be one write ahead of its place, which is then updated; a ring that names
// no place, or the other place, is valid while this place is only begun, or still empty.
// Any other state is refused. The ring is not changed while its place cannot be updated.
type Anchor interface {
	// Kind goes into the ring: "tpm-nv".
	Kind() string
	// Places returns both places with their content. It needs no auth value, so the
	// content is not authenticated. Errors are those of the hardware.
	Places(ctx context.Context) ([]AnchorPlace, error)
	// Read returns the content of a place, nil for an empty place. Error: ErrAnchorLost if
	// the place does not exist or has another auth value.
	Read(ctx context.Context, place uint32, auth []byte) ([]byte, error)
	// Make creates a place with that content, replacing an existing place. Error:
	// ErrAnchor.
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

// Use sets the anchor of the ring: from now on Unlock checks it, and changes update it.
func (r *Ring) Use(a Anchor) { r.anchor = a }

// UseNone accepts the ring as it is, whatever place it names, when the settings ask for
// that. Reanchor then removes the place from the ring.
func (r *Ring) UseNone() { r.anchor, r.unasked = nil, true }

// Anchored reports whether the ring names a place that records its writes. The answer
// is authentic only after unlocking.
func (r *Ring) Anchored() bool { return r.snapshot().Anchor != nil }

// AnchorKind is the Kind of the anchor that the ring names, "" for none; authentic only
// after unlocking, as Anchored.
func (r *Ring) AnchorKind() string {
	if a := r.snapshot().Anchor; a != nil {
		return a.Kind
	}
	return ""
}

// finding is the result of checking a ring against its anchor.
type finding struct {
	err    error  // why the ring is not to be used
	behind bool   // the place has to follow: it is one write behind, or only begun
	other  uint32 // an obsolete place; 0 for none
	pinned uint64 // generation in the ring's own place, if that is to be believed
}

// lookUp checks body, whose key is verified, against the anchor. It changes nothing.
func (r *Ring) lookUp(ctx context.Context, key *TierKey, body ringBody) (f finding) {
	if r.anchor == nil {
		if body.Anchor != nil && !r.unasked {
			f.err = fmt.Errorf("%w: counter is in %s, not found on this machine", ErrAnchorLost, body.Anchor)
		}
		return f
	}
	places, err := r.anchor.Places(ctx)
	if err != nil {
		f.err = fmt.Errorf("read the key ring counter: %w", err)
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
		f.err = fmt.Errorf("%w: ring is write %d, TPM recorded write %d", ErrOlderRing, body.Generation, n.generation)
	case n.generation+1 < body.Generation:
		f.err = fmt.Errorf("%w: TPM recorded write %d, ring is write %d", ErrAnchorLost, n.generation, body.Generation)
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

// unanchored checks a ring that names no place: no place may exist, except one begun for
// the next write of this very ring, or for an earlier one that failed.
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
			return fmt.Errorf("%w: ring names no NV index, TPM recorded write %d", ErrOlderRing, n.generation)
		}
		return fmt.Errorf("%w: TPM recorded %s, this is ring %s", ErrOtherRing, p.title(), body.ID)
	}
	return nil
}

// title describes the unverified content of a place.
func (p AnchorPlace) title() string {
	if n, ok := parseNote(p.Data); ok {
		return fmt.Sprintf("ring %s, write %d (at %#x)", n.ring, n.generation, p.Place)
	}
	return fmt.Sprintf("unreadable data at %#x", p.Place)
}

func (p *anchorPlace) String() string { return fmt.Sprintf("%s at %#x", p.Kind, p.Place) }

// checkAnchor is lookUp for unlocking: a place left behind by a crash is updated.
func (r *Ring) checkAnchor(ctx context.Context, key *TierKey, body ringBody) error {
	f := r.lookUp(ctx, key, body)
	if f.err == nil && (f.behind || f.other != 0) {
		r.catchUp(ctx, key)
	}
	return f.err
}

// catchUp updates the anchor to the ring on disk. The lock prevents setting back the
// place of a concurrent writer; if the lock is not available (a read-only disk) a later
// unlock does the update.
func (r *Ring) catchUp(ctx context.Context, key *TierKey) {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	unlock, err := r.store.lock(ctx)
	if err != nil {
		r.store.log.Warn("cannot update the key ring counter in the TPM now; it is one write behind", "ring", r.store.path, "err", err)
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
		r.store.log.Warn("cannot update the key ring counter in the TPM; it is one write behind", "ring", r.store.path, "err", err)
		return
	}
	r.settle(ctx, key, body)
}

// settle ends a write: it records the write in the ring's place and removes the other
// place. After an error the place is one write behind; the next unlock updates it.
func (r *Ring) settle(ctx context.Context, key *TierKey, body ringBody) {
	if r.anchor == nil || body.Anchor == nil {
		return
	}
	if err := r.settled(ctx, key, body); err != nil {
		r.store.log.Warn("cannot record this key ring write in the TPM; run \"layervault key recover\"", "ring", r.store.path, "err", err)
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

// begin creates a place for body's next write, other than the place not, and names it
// in body.
func (r *Ring) begin(ctx context.Context, key *TierKey, body *ringBody, not *anchorPlace) error {
	places, err := r.anchor.Places(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(places, func(p AnchorPlace) bool { return not == nil || p.Place != not.Place })
	if i < 0 {
		return fmt.Errorf("%w: no free NV index for the key ring", ErrAnchor)
	}
	body.Anchor = &anchorPlace{Kind: r.anchor.Kind(), Place: places[i].Place}
	return r.writeNote(ctx, key, *body, phaseBegun, r.anchor.Make)
}

// refuseIfAnchored prevents a new ring while the anchor records an earlier one: the disk
// of that ring may just not be mounted. Leftovers of a crash during the first write are
// ignored.
func (r *Ring) refuseIfAnchored(ctx context.Context) error {
	if r.anchor == nil {
		return nil
	}
	places, err := r.anchor.Places(ctx)
	if err != nil {
		return fmt.Errorf("read the key ring counter: %w", err)
	}
	for _, p := range places {
		if !p.Exists || p.Empty {
			continue
		}
		if n, ok := parseNote(p.Data); ok && n.phase == phaseBegun && n.generation == 1 {
			continue
		}
		return &RecordedRing{Ring: p.title()}
	}
	return nil
}

// firstAnchor anchors an unanchored ring, if possible. If not, the ring is used without
// an anchor: Anchored and status show that.
func (r *Ring) firstAnchor(ctx context.Context, key *TierKey, body *ringBody) {
	if r.anchor == nil {
		return
	}
	if err := r.begin(ctx, key, body, nil); err != nil {
		body.Anchor = nil
		r.store.log.Warn("cannot record this key ring in the TPM; replay of an older ring will not be detected", "ring", r.store.path, "err", err)
	}
}

// moveAnchor prepares the anchor for a change from before, of key, to body, of next. An
// error prevents the change: the result could not be told from a forged ring. If the
// anchor already rejects the ring, a person opened it, and the change is made without the
// anchor.
func (r *Ring) moveAnchor(ctx context.Context, key, next *TierKey, before ringBody, body *ringBody) error {
	if r.anchor == nil {
		return nil
	}
	f := r.lookUp(ctx, key, before)
	if f.err != nil {
		if next != key {
			return fmt.Errorf("rotate the tier key: %w", f.err)
		}
		r.store.log.Warn("key ring is not recorded in the TPM; run \"layervault key recover\"", "ring", r.store.path, "err", f.err)
		return nil
	}
	switch {
	case before.Anchor == nil:
		r.firstAnchor(ctx, next, body)
	case next != key:
		if err := r.begin(ctx, next, body, before.Anchor); err != nil {
			return fmt.Errorf("record the ring of the new tier key in the TPM: %w", err)
		}
	case f.behind:
		if err := r.settled(ctx, key, before); err != nil { // never two writes behind
			return fmt.Errorf("update the key ring counter in the TPM: %w", err)
		}
	}
	return nil
}

// Reanchor sets the anchor to the current ring, whatever was recorded before: for a person
// who knows the reason for an older ring or another TPM. Without an anchor (Use) the ring
// then names none. Errors: ErrWrongKey, *ForgedRing, ErrAnchor.
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
		// The ring names no place, and no place conflicts.
		body.Generation++
		if r.firstAnchor(ctx, key, &body); body.Anchor == nil {
			return nil
		}
	case f.pinned != 0:
		// The place is of this ring but records another write: continue after the higher one.
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

// writeBehind records the write before body in the place, so that body, once written, is
// at most one ahead.
func (r *Ring) writeBehind(ctx context.Context, key *TierKey, body ringBody) error {
	body.Generation--
	return r.writeNote(ctx, key, body, phaseInForce, r.anchor.Write)
}
