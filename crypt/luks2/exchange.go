package luks2

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// retiredType is the type of the token that Exchange sets on the key slots it is about
// to remove. Other programs pass over tokens of a type they do not know.
const retiredType = "layervault-retired"

// Exchange makes the image open with next instead of old: a key slot for next is
// added and proven, then every slot that old opens is destroyed. Slots of other
// passphrases stay. It needs room for one more slot until it ends.
//
// A crash at any point leaves an image that old or next opens, and calling it again
// finishes the work; an image that is done already is not written to. The token is
// there because RemoveSlot, cut short, leaves a slot that nothing opens: it tells
// such a slot from one that somebody else added.
//
// Errors: ErrNoKey if neither opens the image, and those of Read, AddSlot, SetToken
// and RemoveSlot.
func Exchange(f File, old, next []byte, kdf KDF) error {
	h, err := Read(f)
	if err != nil {
		return fmt.Errorf("exchanging a key: %w", err)
	}
	if err := h.exchange(f, old, next, kdf); err != nil {
		return fmt.Errorf("exchanging a key of %s: %w", h.UUID(), err)
	}
	return nil
}

func (h *Header) exchange(f File, old, next []byte, kdf KDF) error {
	key, kept, err := h.Unlock(f, next)
	if errors.Is(err, ErrNoKey) {
		if kept, err = h.addProven(f, old, next, kdf); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	clear(key)
	if err := h.retire(f, old, kept); err != nil {
		return err
	}
	return h.removeRetired(f, kept)
}

// addProven adds a slot for next, and reads it back from the file.
func (h *Header) addProven(f File, old, next []byte, kdf KDF) (int, error) {
	key, _, err := h.Unlock(f, old)
	if err != nil {
		return -1, err
	}
	defer clear(key)
	slot, err := h.AddSlot(f, key, next, kdf)
	if err != nil {
		return -1, err
	}
	again, err := Read(f)
	if err != nil {
		return -1, err
	}
	proof, err := again.UnlockSlot(f, slot, next)
	if err != nil {
		return -1, fmt.Errorf("the new key slot does not open, the old one stays: %w", err)
	}
	clear(proof)
	return slot, nil
}

// retire marks the slots that old opens.
func (h *Header) retire(f File, old []byte, kept int) error {
	names := []string{}
	for _, s := range h.Slots() {
		if s.ID == kept || !s.Bound {
			continue
		}
		key, err := h.UnlockSlot(f, s.ID, old)
		switch {
		case err == nil:
			clear(key)
			names = append(names, strconv.Itoa(s.ID))
		case errors.Is(err, ErrNoKey), errors.Is(err, ErrTooCostly), errors.Is(err, ErrUnsupported):
			// Another's slot. AddSlot makes none that cannot be tried here.
		default:
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	token, err := json.Marshal(map[string]any{"type": retiredType, "keyslots": names})
	if err != nil {
		return err
	}
	_, err = h.SetToken(f, -1, token)
	return err
}

// removeRetired removes the marked slots, then the marks.
func (h *Header) removeRetired(f File, kept int) error {
	tokens, err := h.Tokens()
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Type != retiredType {
			continue
		}
		for _, slot := range t.KeySlots {
			// A mark may be from an exchange that was taken back since.
			if slot == kept {
				continue
			}
			if slices.ContainsFunc(h.Slots(), func(s Slot) bool { return s.ID == slot }) {
				if err := h.RemoveSlot(f, slot); err != nil {
					return err
				}
			}
		}
		if err := h.RemoveToken(f, t.ID); err != nil {
			return err
		}
	}
	return nil
}
