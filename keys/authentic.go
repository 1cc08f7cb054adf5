package keys

import (
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ringMACs says that the holder of the tier key wrote a ring. Each is HMAC-SHA256 in hex,
// with the key HKDF-SHA256(tier key, info "layervault/2/mac/ring").
//
// Ring is what counts: it covers all of "ring", compact. The others cover its parts; they
// decide nothing and only tell a person what was changed when Ring does not fit.
type ringMACs struct {
	Ring     string            `json:"ring"`
	Head     string            `json:"head"`               // all but slots and previous
	Slots    map[string]string `json:"slots"`              // by slot id
	Previous string            `json:"previous,omitempty"` // while a rotation is under way
}

// ForgedRing is ErrForgedRing with the parts that the holder of the tier key did not write.
type ForgedRing struct {
	Ring    string   // id
	Changed []string // "slot 1a2b3c4d (tpm)", "the head", ...
}

func (e *ForgedRing) Error() string {
	return fmt.Sprintf("%v: ring %s: %s",
		ErrForgedRing, e.Ring, strings.Join(e.Changed, ", "))
}

// Is makes the error match ErrForgedRing.
func (e *ForgedRing) Is(target error) bool { return target == ErrForgedRing }

// part is the text of one part under a name of its own, so that no part can stand for
// another, in another ring neither.
func (r ringBody) part(name string, what any) ([]byte, error) {
	text, err := json.Marshal(what)
	if err != nil {
		return nil, fmt.Errorf("encode key ring: %w", err)
	}
	return append([]byte(name+"/"+r.ID+"/"), text...), nil
}

func (r ringBody) head() any {
	head := r.clone()
	head.Slots, head.Previous = nil, nil
	return head
}

// makeMACs computes the MACs of r as it stands.
func (r ringBody) makeMACs(key *TierKey) (*ringMACs, error) {
	sum := func(name string, what any) (string, error) {
		text, err := r.part(name, what)
		if err != nil {
			return "", err
		}
		mac, err := key.MAC("ring", text)
		return hex.EncodeToString(mac), err
	}
	m := &ringMACs{Slots: map[string]string{}}
	var err error
	if m.Ring, err = sum("ring", r); err != nil {
		return nil, err
	}
	if m.Head, err = sum("head", r.head()); err != nil {
		return nil, err
	}
	for _, s := range r.Slots {
		if m.Slots[s.ID], err = sum("slot", s); err != nil {
			return nil, err
		}
	}
	if r.Previous != nil {
		m.Previous, err = sum("previous", r.Previous)
	}
	return m, err
}

// sign makes r a ring of the present version, written by the holder of key.
func (r *ringBody) sign(key *TierKey) (err error) {
	r.version, r.Floor = ringVersion, r.floor()
	if r.Check, err = key.checkValue(r.version, r.ID); err != nil {
		return err
	}
	// What is written is what is read back: a label that is no UTF-8 changes on the way.
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode key ring: %w", err)
	}
	plain := ringBody{version: r.version}
	if err := json.Unmarshal(text, &plain); err != nil {
		return fmt.Errorf("encode key ring: %w", err)
	}
	*r = plain
	r.macs, err = r.makeMACs(key)
	return err
}

// authentic says whether the holder of key, the ring's, wrote it. A ring of version 1 has
// nothing to tell that by. Error: *ForgedRing.
func (r ringBody) authentic(key *TierKey) error {
	if r.version < 2 {
		return nil
	}
	want, err := r.makeMACs(key)
	if err != nil {
		return err
	}
	if hmac.Equal([]byte(want.Ring), []byte(r.macs.Ring)) {
		return nil
	}
	return &ForgedRing{Ring: r.ID, Changed: r.macs.differences(*want, r)}
}

// differences names what does not fit, as far as it can be told.
func (m ringMACs) differences(want ringMACs, r ringBody) []string {
	var out []string
	if m.Head != want.Head {
		out = append(out, "id, floor, generation or anchor was changed")
	}
	for _, s := range r.Slots {
		switch got, known := m.Slots[s.ID]; {
		case !known:
			out = append(out, fmt.Sprintf("slot %s was added", s.Title()))
		case got != want.Slots[s.ID]:
			out = append(out, fmt.Sprintf("slot %s was changed or added", s.Title()))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.Slots)) {
		if indexOf(r.Slots, id) < 0 {
			out = append(out, fmt.Sprintf("slot %q was removed", id))
		}
	}
	switch {
	case m.Previous == want.Previous:
	case r.Previous == nil:
		out = append(out, "previous key of a rotation was removed")
	default:
		out = append(out, "previous key of a rotation was changed or added")
	}
	if len(out) == 0 {
		out = append(out, "parts are authentic, but from different writes or in another order")
	}
	return out
}

// Floor is the lowest format of images and records that the tier still takes: Format1 or
// Format2. It is to be believed after unlocking only.
func (r *Ring) Floor() int { return r.snapshot().floor() }
