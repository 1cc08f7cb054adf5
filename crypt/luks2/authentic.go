package luks2

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"layervault/internal/wipehash"
)

// ImageToken is the type of the token that marks a format 2 image. The token holds a MAC
// over all header fields that decide how the image is read: HMAC-SHA256 under
// HKDF-SHA256(passphrase, info "layervault/2/header"). Salts, sequence number and label
// are not covered: salts differ between the copies, the sequence number is a counter, the
// label is only a name.
//
//	{"type":"layervault-image","keyslots":[],"version":2,"kind":"layer","id":"...",
//	 "mac":"<64 hex>","next":"<64 hex>","fields":{"segments.0.encryption":"<11 base64>",...}}
//
// next exists only during a passphrase exchange: the MAC under the new passphrase.
// fields has a MAC of eight bytes for each field, so that an error can name the changed
// fields; the decision rests on mac alone.
const ImageToken = "layervault-image"

// Format2 is the version in that token. Format 1 is an image without one.
const (
	Format1 = 1
	Format2 = 2
)

// Owner says what an image is: kind and id go into its passphrase and into its MAC.
type Owner struct {
	Kind string // such as "layer"
	ID   string
}

// FieldMAC stands in a HeaderError for the header as a whole: none of its fields is what the
// key wrote.
const FieldMAC = "mac"

// fieldMAC is how many bytes of a field's MAC are kept: it names fields for people.
const fieldMAC = 8

// imageToken is what the token says, without its type.
type imageToken struct {
	Version   int
	Kind, ID  string
	MAC, Next string
	fields    object // strings
}

// tokenOf decodes the token. wrong names the member that is missing or malformed.
func tokenOf(obj object) (t imageToken, wrong string) {
	number, _ := obj["version"].(json.Number)
	version, err := strconv.Atoi(number.String())
	if err != nil {
		wrong = "version"
	}
	t.Version = version
	for name, v := range obj {
		ok := true
		switch name {
		case "type", "version", "keyslots": // looked at before
		case "kind":
			t.Kind, ok = v.(string)
		case "id":
			t.ID, ok = v.(string)
		case "mac":
			t.MAC, ok = v.(string)
		case "next":
			t.Next, ok = v.(string)
		case "fields":
			t.fields, ok = v.(object)
		default:
			ok = false
		}
		if !ok {
			wrong = name
		}
	}
	return t, wrong
}

// Format is the format that the header claims: 2 with an ImageToken, else 1. The claim
// is not authenticated; the two formats have different passphrases.
func (h *Header) Format() int {
	if len(h.imageTokens()) > 0 {
		return Format2
	}
	return Format1
}

func (h *Header) imageTokens() []int {
	tokens, ok := h.meta.doc["tokens"].(object)
	if !ok {
		return nil
	}
	var ids []int
	for _, id := range h.meta.tokens {
		if t, ok := tokens[strconv.Itoa(id)].(object); ok && t["type"] == ImageToken {
			ids = append(ids, id)
		}
	}
	return ids
}

// imageToken reads the token of a format 2 header. Its error is a *HeaderError.
func (h *Header) imageToken() (imageToken, error) {
	fail := func(field, what, now string) (imageToken, error) {
		return imageToken{}, h.notAuthentic([]Change{{field, what, now}})
	}
	ids := h.imageTokens()
	switch len(ids) {
	case 0:
		return fail("tokens", "missing: no token of type "+ImageToken, "")
	case 1:
	default:
		return fail(fmt.Sprintf("tokens.%d", ids[1]), "added", strconv.Quote(ImageToken))
	}
	at := "tokens." + strconv.Itoa(ids[0])
	t, wrong := tokenOf(h.meta.doc["tokens"].(object)[strconv.Itoa(ids[0])].(object))
	if wrong != "" && t.Version <= Format2 {
		return fail(at, "changed: "+wrong, "")
	}
	if t.Version > Format2 {
		return imageToken{}, &UnsupportedError{What: fmt.Sprintf("image format %d (made by a newer layervault)", t.Version)}
	}
	if t.Version != Format2 {
		return fail(at+".version", "changed", strconv.Itoa(t.Version))
	}
	return t, nil
}

func (h *Header) notAuthentic(fields []Change) error {
	return &HeaderError{UUID: h.UUID(), Fields: fields, Reason: ErrNotAuthentic}
}

// Owner is the owner that a format 2 header claims. The claim is not authenticated.
func (h *Header) Owner() (Owner, error) {
	t, err := h.imageToken()
	if err != nil {
		return Owner{}, fmt.Errorf("header of %s: %w", h.UUID(), err)
	}
	return Owner{t.Kind, t.ID}, nil
}

// Authentic verifies the MAC of a format 2 header: nil means that the writer of the
// header had the passphrase and wrote it for this owner. Authentic opens no key slot;
// whether the passphrase opens the image is checked by UnlockOwn.
//
// Errors: a *HeaderError that names the fields, ErrUnsupported for a newer format.
func (h *Header) Authentic(o Owner, passphrase []byte) error {
	if err := h.authentic(o, passphrase); err != nil {
		return fmt.Errorf("header of %s: %w", h.UUID(), err)
	}
	return nil
}

func (h *Header) authentic(o Owner, passphrase []byte) error {
	t, err := h.imageToken()
	if err != nil {
		return err
	}
	if t.Kind != o.Kind {
		return h.notAuthentic([]Change{{"kind", fmt.Sprintf("is not %q", o.Kind), strconv.Quote(t.Kind)}})
	}
	if t.ID != o.ID {
		return h.notAuthentic([]Change{{"id", fmt.Sprintf("is not %q", o.ID), strconv.Quote(t.ID)}})
	}
	tree, err := leavesOf(h.meta.doc)
	if err != nil {
		return err
	}
	key := headerKey(passphrase)
	defer clear(key)
	fixed := fixedFields(h.bin, o)
	if sameMAC(t.MAC, key, canonical(fixed, tree, t.Next)) || t.Next != "" && sameMAC(t.Next, key, canonical(fixed, tree, "")) {
		return nil
	}
	return h.notAuthentic(changes(t.fields, key, fixed, tree))
}

func headerKey(passphrase []byte) []byte {
	return new(wipehash.State).HKDF(passphrase, nil, macContext)
}

func sameMAC(text string, key, data []byte) bool {
	have, err := hex.DecodeString(text)
	if err != nil {
		return false
	}
	var want [wipehash.Size]byte
	new(wipehash.State).HMAC(&want, key, data)
	return subtle.ConstantTimeCompare(have, want[:]) == 1
}

// macOfField is what the token keeps of one field.
func macOfField(key []byte, l leaf) string {
	var sum [wipehash.Size]byte
	new(wipehash.State).HMAC(&sum, key, canonical([]leaf{l}, nil, "field"))
	return base64.RawStdEncoding.EncodeToString(sum[:fieldMAC])
}

// changes lists the differences from the fields that the token recorded. If no field
// matches, or all match, the MAC itself was changed.
func changes(known object, key []byte, fixed, tree []leaf) []Change {
	left := maps.Clone(known)
	var out []Change
	same := 0
	for _, l := range slices.Concat(fixed, tree) {
		mac, ok := left[l.path]
		delete(left, l.path)
		switch {
		case !ok:
			out = append(out, Change{l.path, "added", string(l.value)})
		case mac != macOfField(key, l):
			out = append(out, Change{l.path, "changed", string(l.value)})
		default:
			same++
		}
	}
	for _, path := range slices.Sorted(maps.Keys(left)) {
		out = append(out, Change{path, "missing", ""})
	}
	if same == 0 || len(out) == 0 {
		return []Change{{FieldMAC, "does not match this header and key", ""}}
	}
	return out
}

// sealing renews the token at each change of a header: with one MAC key, or with two
// during a passphrase exchange.
type sealing struct {
	owner     Owner
	mac, next []byte // keys; next may be nil
}

func newSealing(o Owner, passphrase, next []byte) *sealing {
	s := &sealing{owner: o, mac: headerKey(passphrase)}
	if next != nil {
		s.next = headerKey(next)
	}
	return s
}

func (s *sealing) wipe() {
	clear(s.mac)
	clear(s.next)
}

// seal computes the token for the current tree and stores it in the tree.
func (s *sealing) seal(bin binHeader, doc object) error {
	if s.owner.Kind == "" || s.owner.ID == "" {
		return errors.New("a format 2 image needs a kind and an id")
	}
	tokens := doc["tokens"].(object)
	id := ""
	for name, v := range tokens {
		if t, ok := v.(object); ok && t["type"] == ImageToken {
			delete(tokens, name)
			id = name
		}
	}
	for n := 0; id == "" && n < maxObjects; n++ {
		if name := strconv.Itoa(n); tokens[name] == nil {
			id = name
		}
	}
	if id == "" {
		return fmt.Errorf("%w: at most %d tokens", ErrNoRoom, maxObjects)
	}
	// As a reader will see it: numbers that were put in as such are json.Number there.
	tree, err := leavesOf(doc)
	if err != nil {
		return err
	}
	fixed := fixedFields(bin, s.owner)
	named := s.mac
	t := object{
		"type": ImageToken, "keyslots": []any{}, "version": number(Format2), "kind": s.owner.Kind, "id": s.owner.ID,
	}
	next := ""
	if s.next != nil {
		named = s.next
		next = hexMAC(s.next, canonical(fixed, tree, ""))
		t["next"] = next
	}
	t["mac"] = hexMAC(s.mac, canonical(fixed, tree, next))
	fields := object{}
	for _, l := range slices.Concat(fixed, tree) {
		fields[l.path] = macOfField(named, l)
	}
	t["fields"] = fields
	tokens[id] = t
	return nil
}

func hexMAC(key, data []byte) string {
	var sum [wipehash.Size]byte
	new(wipehash.State).HMAC(&sum, key, data)
	return hex.EncodeToString(sum[:])
}
