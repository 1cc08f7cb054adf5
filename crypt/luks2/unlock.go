package luks2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Unlock is UnlockAny without cancellation.
func (h *Header) Unlock(r io.ReaderAt, passphrase []byte) (volumeKey []byte, slot int, err error) {
	return h.UnlockAny(context.Background(), r, passphrase)
}

// UnlockAny tries the passphrase on every key slot of the data: slots of higher priority
// first, among equals the cheapest first. r is the image that h was read from. UnlockAny
// returns the volume key, which the caller wipes with clear, and the number of the
// opened slot. The total cost of all slots is limited (see maxEffort), and the context
// is checked between two slots. Slots of other programs may take long; see UnlockOwn.
//
// Errors: ErrNoKey if the passphrase is wrong everywhere, with what kept slots from
// being tried, if anything did; ErrUnsupported, ErrTooCostly if no slot could be
// tried; ErrDamaged if the file ends before the key slot; or what r returned.
func (h *Header) UnlockAny(ctx context.Context, r io.ReaderAt, passphrase []byte) (volumeKey []byte, slot int, err error) {
	var spent budget
	return h.unlock(ctx, r, passphrase, spent.take)
}

// budget is the effort that was spent on slots, see KDF.effort.
type budget int64

// take adds the effort of a slot to the budget. It returns ErrTooCostly beyond maxEffort, or
// the error of check.
func (b *budget) take(k keyslot) error {
	if err := k.kdf.check(); err != nil {
		return err // the claimed cost may overflow
	}
	if *b += budget(k.kdf.effort()); *b > maxEffort {
		return fmt.Errorf("%w: total cost of all slots exceeds the limit", ErrTooCostly)
	}
	return nil
}

// UnlockOwn is UnlockAny for layervault's own slots: PBKDF2 with few iterations, enough
// for a random key. Slots of other programs, which may need a gigabyte and minutes, are
// skipped.
func (h *Header) UnlockOwn(ctx context.Context, r io.ReaderAt, passphrase []byte) (volumeKey []byte, slot int, err error) {
	return h.unlock(ctx, r, passphrase, h.meta.own)
}

// own returns the reason why a slot is not one of layervault's, nil if it is.
func (m *metadata) own(k keyslot) error {
	d, _ := m.digestOf(k.id)
	switch {
	case k.kdf.Type != KDFPBKDF2 || k.kdf.Iterations > ownIterations:
		return fmt.Errorf("%w: %s; layervault slots use pbkdf2 with at most %d iterations", ErrTooCostly, k.kdf.Type, ownIterations)
	case d.iterations > maxOwnDigest:
		return fmt.Errorf("%w: %d iterations in digest %d, limit is %d", ErrTooCostly, d.iterations, d.id, maxOwnDigest)
	}
	return nil
}

// ownIterations bounds a slot of layervault's, whose key is random: layervault writes 1000
// (RandomKeyKDF). A typed passphrase has a hundred times as many.
const ownIterations = 10_000

// maxOwnDigest bounds the digest iterations of a layervault image: layervault writes 1000,
// and cryptsetup calibrates to an eighth of a second when it re-encrypts an image.
const maxOwnDigest = 4_000_000

// maxEffort bounds the total cost of all slots of one image, see KDF.effort: the maximum
// cost of a single slot.
const maxEffort = 10 * maxArgonWork

// unlock tries the slots of the data for which skip returns nil.
func (h *Header) unlock(ctx context.Context, r io.ReaderAt, passphrase []byte, skip func(keyslot) error) (volumeKey []byte, slot int, err error) {
	if err := h.usable(); err != nil {
		return nil, -1, fmt.Errorf("unlocking %s: %w", h.UUID(), err)
	}
	slots := h.meta.candidates()
	if len(slots) == 0 {
		return nil, -1, fmt.Errorf("unlocking %s: %w: image has no key slots", h.UUID(), ErrNoKey)
	}
	var failed []error
	for _, k := range slots {
		if err := ctx.Err(); err != nil {
			return nil, -1, fmt.Errorf("unlocking %s: %w", h.UUID(), context.Cause(ctx))
		}
		if err := skip(k); err != nil {
			failed = append(failed, fmt.Errorf("key slot %d: %w", k.id, err))
			continue
		}
		key, err := h.open(r, k, passphrase)
		if err == nil {
			return key, k.id, nil
		}
		if !errors.Is(err, ErrNoKey) {
			failed = append(failed, err)
		}
	}
	switch reasons := errors.Join(failed...); {
	case reasons == nil:
		err = ErrNoKey
	case len(failed) < len(slots):
		err = fmt.Errorf("%w; skipped: %w", ErrNoKey, reasons)
	default:
		err = reasons
	}
	return nil, -1, fmt.Errorf("unlocking %s: %w", h.UUID(), err)
}

// candidates are the slots of the data, in the order in which they are tried.
func (m *metadata) candidates() []keyslot {
	var slots []keyslot
	for _, k := range m.slots {
		if _, bound := m.digestOf(k.id); bound && k.typ == "luks2" && k.priority > 0 {
			slots = append(slots, k)
		}
	}
	slices.SortStableFunc(slots, func(a, b keyslot) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.kdf.effort(), b.kdf.effort()))
	})
	return slots
}

// UnlockSlot tries the passphrase on one key slot only, whatever its priority.
// Errors as Unlock, and ErrNoSlot.
func (h *Header) UnlockSlot(r io.ReaderAt, slot int, passphrase []byte) (volumeKey []byte, err error) {
	if err := h.usable(); err != nil {
		return nil, fmt.Errorf("unlocking %s: %w", h.UUID(), err)
	}
	k, ok := h.meta.slot(slot)
	if _, bound := h.meta.digestOf(slot); !ok || !bound || k.typ != "luks2" {
		return nil, fmt.Errorf("unlocking %s: %w: %d", h.UUID(), ErrNoSlot, slot)
	}
	volumeKey, err = h.open(r, k, passphrase)
	if err != nil {
		return nil, fmt.Errorf("unlocking %s: %w", h.UUID(), err)
	}
	return volumeKey, nil
}

// open extracts the key from one slot and checks it against its digest.
func (h *Header) open(r io.ReaderAt, k keyslot, passphrase []byte) ([]byte, error) {
	d, _ := h.meta.digestOf(k.id)
	key, err := k.read(r, passphrase)
	if err != nil {
		return nil, fmt.Errorf("key slot %d: %w", k.id, err)
	}
	ok, err := d.verify(key)
	if ok {
		return key, nil
	}
	clear(key)
	if err != nil {
		return nil, fmt.Errorf("key slot %d: %w", k.id, err)
	}
	return nil, fmt.Errorf("key slot %d: %w", k.id, ErrNoKey)
}

// read extracts the key from the slot: derive, decrypt, merge. It cannot detect a wrong
// passphrase.
func (k keyslot) read(r io.ReaderAt, passphrase []byte) ([]byte, error) {
	mk := newHash(k.afHash)
	switch {
	case mk == nil:
		return nil, &UnsupportedError{What: fmt.Sprintf("hash %q in the anti-forensic splitter", k.afHash)}
	case k.afStripes != afStripes:
		return nil, &UnsupportedError{What: fmt.Sprintf("%d anti-forensic stripes", k.afStripes)}
	case k.keySize == 0 || len(k.salt) != saltSize:
		return nil, fmt.Errorf("%w: key has %d bytes, salt has %d bytes", ErrDamaged, k.keySize, len(k.salt))
	}
	if err := k.kdf.check(); err != nil {
		return nil, err
	}
	areaKey, err := k.kdf.derive(passphrase, k.salt, k.areaKeySize)
	if err != nil {
		return nil, err
	}
	defer clear(areaKey)
	c, err := newSectorCipher(k.areaCipher, areaKey)
	if err != nil {
		return nil, err
	}
	area := make([]byte, afSize(k.keySize))
	defer clear(area)
	if _, err := r.ReadAt(area, k.areaOffset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: file ends before the key slot area", ErrDamaged)
		}
		return nil, err
	}
	cryptArea(area, c.decrypt)
	return afMerge(area, k.keySize, mk), nil
}

// afSize is the number of bytes that a split key takes in its area, in whole sectors.
func afSize(keySize int) int {
	return (keySize*afStripes + areaSector - 1) / areaSector * areaSector
}
