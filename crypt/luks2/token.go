package luks2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// Token is one token: JSON that tells a program how to get at the passphrase of some
// key slots (such as systemd-tpm2). This package does not interpret it.
type Token struct {
	ID       int
	Type     string
	KeySlots []int
	JSON     json.RawMessage // the whole object, with "type" and "keyslots"
}

// Tokens lists the tokens by number.
func (h *Header) Tokens() ([]Token, error) {
	doc, err := decodeTree(h.text)
	if err != nil {
		return nil, fmt.Errorf("tokens of %s: %w", h.UUID(), err)
	}
	out := make([]Token, 0, len(h.meta.tokens))
	for _, id := range h.meta.tokens {
		obj := doc["tokens"].(object)[strconv.Itoa(id)].(object)
		text, err := encodeTree(obj)
		if err != nil {
			return nil, fmt.Errorf("tokens of %s: %w", h.UUID(), err)
		}
		t := Token{ID: id, Type: obj["type"].(string), JSON: text}
		for _, slot := range obj["keyslots"].([]any) {
			n, err := strconv.Atoi(slot.(string))
			if err != nil {
				return nil, fmt.Errorf("token %d of %s: %w", id, h.UUID(), err)
			}
			t.KeySlots = append(t.KeySlots, n)
		}
		out = append(out, t)
	}
	return out, nil
}

// SetToken writes a token: a JSON object with a string "type" and an array "keyslots"
// of existing key slots' numbers as strings. id -1 takes the first free number, else an
// existing token of that number is replaced. It gives the number.
//
// Errors: ErrNoRoom, ErrStale, ErrUnsupported, or what f returned.
func (h *Header) SetToken(f File, id int, token json.RawMessage) (int, error) {
	obj, err := decodeTree(bytes.TrimSpace(token))
	if err != nil {
		return -1, fmt.Errorf("token for %s: %w", h.UUID(), err)
	}
	for n := 0; id < 0 && n < maxObjects; n++ {
		if !slices.Contains(h.meta.tokens, n) {
			id = n
		}
	}
	if id < 0 || id >= maxObjects {
		return -1, fmt.Errorf("token for %s: %w: at most %d tokens", h.UUID(), ErrNoRoom, maxObjects)
	}
	if err := h.change(f, func(doc object) error {
		doc["tokens"].(object)[strconv.Itoa(id)] = obj
		return nil
	}); err != nil {
		return -1, fmt.Errorf("token %d of %s: %w", id, h.UUID(), err)
	}
	return id, nil
}

// RemoveToken removes a token; the key slots it names stay.
//
// Errors: ErrNoSlot, ErrStale, ErrUnsupported, or what f returned.
func (h *Header) RemoveToken(f File, id int) error {
	if !slices.Contains(h.meta.tokens, id) {
		return fmt.Errorf("removing token %d of %s: %w", id, h.UUID(), ErrNoSlot)
	}
	if err := h.change(f, func(doc object) error {
		delete(doc["tokens"].(object), strconv.Itoa(id))
		return nil
	}); err != nil {
		return fmt.Errorf("removing token %d of %s: %w", id, h.UUID(), err)
	}
	return nil
}

// Token is the token of a type, as JSON. Errors: ErrNoSlot if there is none, ErrDamaged if there
// are several.
func (h *Header) Token(kind string) (json.RawMessage, error) {
	tokens, _ := h.meta.doc["tokens"].(object)
	var found object
	for _, id := range h.meta.tokens {
		t, ok := tokens[strconv.Itoa(id)].(object)
		if !ok || t["type"] != kind {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("tokens of %s: %w: more than one of type %s", h.UUID(), ErrDamaged, kind)
		}
		found = t
	}
	if found == nil {
		return nil, fmt.Errorf("tokens of %s: %w: none of type %s", h.UUID(), ErrNoSlot, kind)
	}
	return encodeTree(found)
}

// SetSealedToken adds a token to a header of format 2 that this process made for owner with the
// passphrase, and authenticates the header anew.
//
// Errors: as SetToken.
func (h *Header) SetSealedToken(f File, owner Owner, passphrase []byte, token json.RawMessage) error {
	h.seal = newSealing(owner, passphrase, nil)
	defer func() {
		h.seal.wipe()
		h.seal = nil
	}()
	_, err := h.SetToken(f, -1, token)
	return err
}

// ReplaceToken replaces the token of the same type in a layervault image, or adds it. A
// format 2 image is authenticated before, and is authentic in each crash state after.
//
// Errors: as SetToken, and ErrNotAuthentic.
func ReplaceToken(f File, owner Owner, passphrase []byte, token json.RawMessage) error {
	h, err := Read(f)
	if err != nil {
		return fmt.Errorf("replacing a token: %w", err)
	}
	if h.Format() == Format2 {
		if err := h.Authentic(owner, passphrase); err != nil {
			return fmt.Errorf("replacing a token: %w", err)
		}
		h.seal = newSealing(owner, passphrase, nil)
		defer h.seal.wipe()
	}
	obj, err := decodeTree(bytes.TrimSpace(token))
	if err != nil {
		return fmt.Errorf("token for %s: %w", h.UUID(), err)
	}
	tokens, err := h.Tokens()
	if err != nil {
		return err
	}
	id := -1
	for _, t := range tokens {
		if t.Type == obj["type"] {
			id = t.ID
		}
	}
	_, err = h.SetToken(f, id, token)
	return err
}
