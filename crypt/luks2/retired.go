package luks2

import (
	"encoding/json"
	"slices"
	"strconv"

	"layervault/internal/wipehash"
)

// retiredType is the type of the token that Exchange sets on the key slots it is about
// to remove: RemoveSlot, cut short, leaves a slot that nothing opens, and the token tells
// such a slot from one that somebody else added. Other programs pass over tokens of a type
// they do not know.
//
//	{"type":"layervault-retired","keyslots":["0"],"macs":{"0":"<64 hex>"}}
//
// A slot's mac is HMAC-SHA256 over the image's UUID and the slot's number and salt, the key
// HKDF-SHA256(passphrase, info "layervault/2/retired"): without it anybody could have the
// next exchange remove slots. Each slot has its own, as a removal takes the slot out of
// "keyslots".
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

// marked lists the slots of a mark that one of the passphrases made.
func (h *Header) marked(t Token, passphrases ...[]byte) []int {
	var body struct {
		MACs map[string]string `json:"macs"`
	}
	if json.Unmarshal(t.JSON, &body) != nil {
		return nil // of another form: nobody's
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
