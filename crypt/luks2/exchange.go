package luks2

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Exchange replaces the passphrase old with next: it adds and tests a key slot for next,
// then destroys every slot that old opens. Slots of other passphrases stay. One free slot
// is needed meanwhile. The image keeps its format: format 2 is authenticated by next for
// owner afterwards, and is rejected if neither old nor next authenticates it. Format 1
// ignores owner.
//
// A crash at any point leaves an image that old or next opens and authenticates. Calling
// Exchange again finishes the work; a finished image is not written to.
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

// Upgrade converts a format 1 image, opened by old, to a format 2 image, opened by next and
// authenticated by next for owner. Preconditions and crash states are those of Exchange: the
// first header that lists the new slot is of format 2 already. The format 1 header is
// checked by CheckOwn and otherwise trusted.
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

// Adopt authenticates the header as it is now, for owner: a change made by hand, with
// cryptsetup for example, becomes valid. So ask a person first, and show the differences
// (Authentic). The header must pass CheckOwn, and the passphrase must open a slot; a slot
// that UnlockOwn skips, such as one made by cryptsetup reencrypt, is replaced by one of
// layervault's. old is the passphrase that opens the image now, and is replaced by
// passphrase; both are equal if the image was of format 2 already. Crash states are those
// of Exchange.
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

// run exchanges the passphrase in this order. After each step the image opens, and is
// authentic, with:
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
	// The header is authentic from here on. Repair a torn copy before anything else: with
	// only one valid copy the next crash could destroy the last.
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
			// This slot is costly and not tried again without need, so it is marked first.
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
		return -1, fmt.Errorf("new key slot does not open, old key slot kept: %w", err)
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

// cheap reports whether a slot may be tried without need: one try of a foreign slot may
// take minutes, or more memory than this process may have. Layervault's own slots are
// PBKDF2 with 1000 iterations; for a slot that a person made with layervault's passphrase,
// the limits are cryptsetup's fastest settings and, for argon2id, those of RFC 9106, section 4,
// where 2 GiB are too much.
func (k KDF) cheap() bool {
	if k.Type == KDFPBKDF2 {
		return k.Iterations <= cheapIterations
	}
	return k.MemoryKiB <= cheapMemoryKiB && k.effort() <= cheapEffort
}

const (
	cheapIterations = 10_000_000         // a second or two
	cheapMemoryKiB  = 64 << 10           // RFC 9106, section 4
	cheapEffort     = 16 * 10 * 64 << 10 // 16 passes over that
)

// removeRetired removes the marked slots, then the marks. If neither passphrase made a
// mark, only the mark is removed: it is from an older layervault, or an attack that wants
// slots removed.
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

// sealOnce writes a token that next alone authenticates, for images where no slot removal
// has done so.
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
