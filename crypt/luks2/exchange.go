package luks2

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Exchange makes the image open with next instead of old: a key slot for next is
// added and proven, then every slot that old opens is destroyed. Slots of other
// passphrases stay. It needs room for one more slot until it ends. An image keeps its
// format: one of format 2 is authenticated, as owner's, by next afterwards, and is refused
// where neither old nor next authenticates it. owner is not asked for in format 1.
//
// A crash at any point leaves an image that old or next opens, and that it authenticates,
// and calling it again finishes the work; an image that is done already is not written to.
//
// Errors: ErrNoKey if neither opens the image, ErrNotAuthentic, and those of Read, AddSlot,
// SetToken and RemoveSlot.
func Exchange(ctx context.Context, f File, owner Owner, old, next []byte, kdf KDF) error {
	h, err := Read(f)
	if err != nil {
		return fmt.Errorf("exchanging a key: %w", err)
	}
	e := exchange{ctx: ctx, file: f, old: old, next: next, kdf: kdf}
	if h.Format() == Format2 {
		oldErr, nextErr := h.authentic(owner, old), h.authentic(owner, next)
		if oldErr != nil && nextErr != nil {
			return fmt.Errorf("exchanging a key of %s: %w", h.UUID(), oldErr)
		}
		e.both, e.one = newSealing(owner, old, next), newSealing(owner, next, nil)
		defer e.both.wipe()
		defer e.one.wipe()
	}
	if err := e.run(h); err != nil {
		return fmt.Errorf("exchanging a key of %s: %w", h.UUID(), err)
	}
	return nil
}

// Upgrade makes an image of format 1, which old opens, one of format 2, which next opens and
// authenticates as owner's. What it wants and leaves behind is as with Exchange: the header
// that lists the new slot first is one of format 2 already. The header of format 1 is held
// against the list of CheckOwn, and believed.
//
// Errors: as Exchange, and those of CheckOwn.
func Upgrade(ctx context.Context, f File, owner Owner, old, next []byte, kdf KDF) error {
	h, err := Read(f)
	if err != nil {
		return fmt.Errorf("upgrading an image: %w", err)
	}
	if err := h.upgrade(ctx, f, owner, old, next, kdf); err != nil {
		return fmt.Errorf("upgrading %s: %w", h.UUID(), err)
	}
	return nil
}

func (h *Header) upgrade(ctx context.Context, f File, owner Owner, old, next []byte, kdf KDF) error {
	if err := h.CheckOwn(); err != nil {
		return err
	}
	if h.Format() == Format2 {
		if err := h.authentic(owner, next); err != nil {
			return err
		}
	}
	e := exchange{ctx: ctx, file: f, old: old, next: next, kdf: kdf, both: newSealing(owner, next, nil), one: newSealing(owner, next, nil)}
	defer e.both.wipe()
	defer e.one.wipe()
	return e.run(h)
}

// Adopt authenticates the header as it is now, for owner: what somebody changed by hand,
// with cryptsetup say, counts from then on. So ask a person first, and show what differs
// (Authentic). The header must be on the list of CheckOwn, and the passphrase must open a
// slot; where that is one that UnlockOwn passes over, as cryptsetup reencrypt makes it, it
// is exchanged for one of ours. old is the passphrase that opens the image now, and is
// exchanged for passphrase; the same one, where the image was of format 2 already. Crashes
// are as with Exchange.
//
// Errors: as Exchange, and those of CheckOwn.
func Adopt(ctx context.Context, f File, owner Owner, old, passphrase []byte, kdf KDF) error {
	h, err := Read(f)
	if err != nil {
		return fmt.Errorf("adopting an image: %w", err)
	}
	if err := h.CheckOwn(); err != nil {
		return fmt.Errorf("adopting an image: %w", err)
	}
	seal := newSealing(owner, passphrase, nil)
	defer seal.wipe()
	e := exchange{ctx: ctx, file: f, old: old, next: passphrase, kdf: kdf, both: seal, one: seal, thorough: true}
	if err := e.run(h); err != nil {
		return fmt.Errorf("adopting %s: %w", h.UUID(), err)
	}
	return nil
}

// exchange is one exchange of passphrases.
type exchange struct {
	ctx       context.Context
	file      File
	old, next []byte
	kdf       KDF
	// both and one seal a header of format 2: as long as old opens it, and from then on.
	both, one *sealing
	// thorough tries costly slots too, where no other opens: a person waits for it.
	thorough bool
}

// run does it, in this order. After each step the image opens, and is authentic, with:
//
//  0. a costly slot of old's marked    old; only Adopt, where no other opens
//  1. slot for next in the header      old or next; the token has both MACs
//  2. old's slots marked               old or next
//  3. each of them destroyed           next
//  4. the mark removed                 next; the token has one MAC
func (e *exchange) run(h *Header) error {
	defer func() { h.seal = nil }()
	from := -1
	key, kept, err := h.UnlockOwn(e.ctx, e.file, e.next)
	if errors.Is(err, ErrNoKey) || errors.Is(err, ErrTooCostly) {
		unlock := h.UnlockOwn
		if e.thorough {
			unlock = h.UnlockAny
		}
		kept = -1
		key, from, err = unlock(e.ctx, e.file, e.old)
	}
	if err != nil {
		return err
	}
	defer clear(key)
	// Now that the header is known to be the image's: a copy that a crash tore is mended
	// before anything else, as with one sound copy the next crash could take the last.
	if h.NeedsRepair() {
		if err := Repair(e.file); err != nil {
			return err
		}
		mended, err := Read(e.file)
		if err != nil {
			return err
		}
		*h = *mended
	}
	if kept < 0 {
		if k, _ := h.meta.slot(from); h.meta.own(k) != nil {
			// Nobody tries this one again without need, so it is marked first.
			h.seal = e.both
			if err := h.mark(e.file, e.next, []int{from}); err != nil {
				return err
			}
		}
		if kept, err = e.addProven(h, key); err != nil {
			return err
		}
	}
	if err := e.retire(h, kept); err != nil {
		return err
	}
	if err := e.removeRetired(h, kept); err != nil {
		return err
	}
	return e.sealOnce(h)
}

// addProven adds a slot for next, and reads it back from the file.
func (e *exchange) addProven(h *Header, key []byte) (int, error) {
	h.seal = e.both
	slot, err := h.AddSlot(e.file, key, e.next, e.kdf)
	if err != nil {
		return -1, err
	}
	again, err := Read(e.file)
	if err != nil {
		return -1, err
	}
	proof, err := again.UnlockSlot(e.file, slot, e.next)
	if err == nil && e.one != nil {
		clear(proof)
		err = again.authentic(e.one.owner, e.next)
	}
	if err != nil {
		return -1, fmt.Errorf("the new key slot does not open, the old one stays: %w", err)
	}
	clear(proof)
	return slot, nil
}

// retire marks the slots that old opens.
func (e *exchange) retire(h *Header, kept int) error {
	var slots []int
	for _, k := range h.meta.slots {
		if err := e.ctx.Err(); err != nil {
			return context.Cause(e.ctx)
		}
		if _, bound := h.meta.digestOf(k.id); k.id == kept || !bound || k.typ != "luks2" || !k.kdf.cheap() {
			continue
		}
		key, err := h.UnlockSlot(e.file, k.id, e.old)
		switch {
		case err == nil:
			clear(key)
			slots = append(slots, k.id)
		case errors.Is(err, ErrNoKey), errors.Is(err, ErrTooCostly), errors.Is(err, ErrUnsupported):
			// Another's slot. AddSlot makes none that cannot be tried here.
		default:
			return err
		}
	}
	if len(slots) == 0 {
		return nil
	}
	h.seal = e.both
	return h.mark(e.file, e.next, slots)
}

// cheap tells the slots that are tried without need: those of others may be made so that
// one try takes minutes, or more memory than this process may have. Ours are PBKDF2 of 1000
// iterations; for a slot that a person made with our passphrase there is what cryptsetup
// takes where it is told to be quick, and TypedKDF.
func (k KDF) cheap() bool {
	if k.Type == KDFPBKDF2 {
		return k.Iterations <= cheapIterations
	}
	return k.MemoryKiB <= cheapMemoryKiB && k.effort() <= cheapEffort
}

const (
	cheapIterations = 10_000_000         // a second or two
	cheapMemoryKiB  = 64 << 10           // as TypedKDF
	cheapEffort     = 16 * 10 * 64 << 10 // 16 passes over that
)

// removeRetired removes the marked slots, then the marks. A mark that neither passphrase
// made is removed alone: it is of an older layervault, or of somebody who wants slots gone.
func (e *exchange) removeRetired(h *Header, kept int) error {
	tokens, err := h.Tokens()
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Type != retiredType {
			continue
		}
		h.seal = e.one
		for _, slot := range h.marked(t, e.next, e.old) {
			// A mark may be from an exchange that was taken back since.
			if slot == kept {
				continue
			}
			if slices.ContainsFunc(h.Slots(), func(s Slot) bool { return s.ID == slot }) {
				if err := h.RemoveSlot(e.file, slot); err != nil {
					return err
				}
			}
		}
		if err := h.RemoveToken(e.file, t.ID); err != nil {
			return err
		}
	}
	return nil
}

// sealOnce leaves a token that next alone authenticates, where there was nothing to remove
// that would have.
func (e *exchange) sealOnce(h *Header) error {
	if e.one == nil {
		return nil
	}
	if t, err := h.imageToken(); err == nil && t.Next == "" && h.authentic(e.one.owner, e.next) == nil {
		return nil
	}
	h.seal = e.one
	return h.change(e.file, func(object) error { return nil })
}
