package luks2

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Unlock tries the passphrase on every key slot of the data: those of higher
// priority first, among equals the cheap ones first. r is the image that h was read
// from. It gives the volume key, which the caller wipes with clear, and the number
// of the slot that opened.
//
// Errors: ErrNoKey if the passphrase is wrong everywhere, with what kept slots from
// being tried, if anything did; ErrUnsupported, ErrTooCostly if no slot could be
// tried; ErrDamaged if the file ends before the key slot; or what r returned.
func (h *Header) Unlock(r io.ReaderAt, passphrase []byte) (volumeKey []byte, slot int, err error) {
	if err := h.usable(); err != nil {
		return nil, -1, fmt.Errorf("unlocking %s: %w", h.UUID(), err)
	}
	var slots []keyslot
	for _, k := range h.meta.slots {
		if _, bound := h.meta.digestOf(k.id); bound && k.typ == "luks2" && k.priority > 0 {
			slots = append(slots, k)
		}
	}
	if len(slots) == 0 {
		return nil, -1, fmt.Errorf("unlocking %s: %w: it has no key slot left", h.UUID(), ErrNoKey)
	}
	slices.SortStableFunc(slots, func(a, b keyslot) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.kdf.effort(), b.kdf.effort()))
	})
	var failed []error
	for _, k := range slots {
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
		err = fmt.Errorf("%w; not tried: %w", ErrNoKey, reasons)
	default:
		err = reasons
	}
	return nil, -1, fmt.Errorf("unlocking %s: %w", h.UUID(), err)
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

// open takes the key out of one slot and checks it against its digest.
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

// read takes the key out of the slot: derive, decrypt, merge. Nothing here can tell
// whether the passphrase was right.
func (k keyslot) read(r io.ReaderAt, passphrase []byte) ([]byte, error) {
	mk := newHash(k.afHash)
	switch {
	case mk == nil:
		return nil, &UnsupportedError{What: fmt.Sprintf("hash %q in the anti-forensic splitter", k.afHash)}
	case k.afStripes != afStripes:
		return nil, &UnsupportedError{What: fmt.Sprintf("%d anti-forensic stripes", k.afStripes)}
	case k.keySize == 0 || len(k.salt) != saltSize:
		return nil, fmt.Errorf("%w: key of %d bytes, salt of %d", ErrDamaged, k.keySize, len(k.salt))
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
			return nil, fmt.Errorf("%w: the file ends before it", ErrDamaged)
		}
		return nil, err
	}
	cryptArea(area, c.decrypt)
	return afMerge(area, k.keySize, mk), nil
}

// afSize is how many bytes of its area a key takes: split, in whole sectors.
func afSize(keySize int) int {
	return (keySize*afStripes + areaSector - 1) / areaSector * areaSector
}
