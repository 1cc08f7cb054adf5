package luks2

import (
	"encoding/json"
	"slices"
	"strconv"

	"layervault/internal/wipehash"
)

// retiredType is the type of the token that Exchange sets on key slots before it removes
// them. An interrupted RemoveSlot leaves a slot that no key opens; the token distinguishes
// such a slot from a slot added by another program. Other programs ignore unknown token
// types.
//
//	{"type":"layervault-retired","keyslots":["0"],"macs":{"0":"<64 hex>"}}
//
// A slot's mac is HMAC-SHA256 over the image's UUID and the slot's number and salt, under
// HKDF-SHA256(passphrase, info "layervault/2/retired"). Without the MAC an attacker could
// make the next exchange remove slots. Each slot has a MAC of its own, because removing a
// slot takes it out of "keyslots".
const retiredType = "layervault-retired"

const retiredContext = "layervault/2/retired"

// mark sets the token on slots.
func (h *Header) mark(f File, passphrase []byte, slots []int) error {
	key := new(wipehash.State).HKDF(passphrase, nil, retiredContext)
	defer clear(key)
	names, macs := []string{}, map[string]string{}
	for _, slot := range slots {
		name := strconv.Itoa(slot)
		names, macs[name] = append(names, name), hexMAC(key, h.markText(slot))
	}
	token, err := json.Marshal(map[string]any{"type": retiredType, "keyslots": names, "macs": macs})
	if err != nil {
		return err
	}
	_, err = h.SetToken(f, -1, token)
	return err
}

// marked lists the slots of a mark whose MAC matches one of the passphrases.
func (h *Header) marked(t Token, passphrases ...[]byte) []int {
	var body struct {
		MACs map[string]string `json:"macs"`
	}
	if json.Unmarshal(t.JSON, &body) != nil {
		return nil // malformed: ignored
	}
	var slots []int
	for _, passphrase := range passphrases {
		key := new(wipehash.State).HKDF(passphrase, nil, retiredContext)
		for _, slot := range t.KeySlots {
			if !slices.Contains(slots, slot) && sameMAC(body.MACs[strconv.Itoa(slot)], key, h.markText(slot)) {
				slots = append(slots, slot)
			}
		}
		clear(key)
	}
	return slots
}

// markText is what a mark's MAC covers for one slot.
func (h *Header) markText(slot int) []byte {
	k, _ := h.meta.slot(slot) // one that is gone has no salt
	return canonical([]leaf{{"uuid", []byte(h.bin.uuid)}, {"keyslots." + strconv.Itoa(slot), k.salt}}, nil, retiredContext)
}
