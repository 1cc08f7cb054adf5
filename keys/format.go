package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"layervault/internal/durable"
)

// ringVersion is the version of keyring.json that this package writes whenever the tier
// key is at hand. A change that an older reader would get wrong needs a new one; a frozen
// ring of each version stays under testdata. Version 1 has no MAC: layervault before
// version 2 refuses a ring of version 2 as one of a newer program.
const ringVersion = 2

// The formats of images and records; a ring's floor is the lowest that its tier takes.
const (
	Format1 = 1
	Format2 = 2
)

// maxRingBytes bounds what is read as a ring. A slot takes 1 to 2 KiB, so this is
// room for hundreds of slots, and a runaway file cannot fill the memory.
const maxRingBytes = 1 << 20

// maxSlots limits the slots of a ring, so that a forged ring cannot keep a TPM busy for
// hours: each slot is tried. A real ring has a handful.
const maxSlots = 64

// ringFile is keyring.json:
//
//	{"version": 2, "checksum": "sha256:<hex>", "ring": {...}, "macs": {...}}
//
// The checksum is taken over "ring" with insignificant white space removed, so a
// file that was cut short or bit-flipped is found, and one that was re-indented is not.
// Anybody can make a checksum; the MACs (see ringMACs) need the tier key.
type ringFile struct {
	Version  int             `json:"version"`
	Checksum string          `json:"checksum"`
	Ring     json.RawMessage `json:"ring"`
	MACs     *ringMACs       `json:"macs,omitempty"` // since version 2
}

// ringBody is the content of a ring.
type ringBody struct {
	ID         string    `json:"id"`         // UUID; every wrap is bound to it
	Generation uint64    `json:"generation"` // counts writes; the backup copy follows
	Created    time.Time `json:"created"`
	Check      string    `json:"check"` // TierKey.checkValue
	Slots      []Slot    `json:"slots"`
	// Previous exists during a rotation. Readers without support for it refuse the ring,
	// as they must.
	Previous *previousKey `json:"previous,omitempty"`
	// Floor is the lowest format of images and records that the tier takes. Since version 2.
	Floor int `json:"floor,omitempty"`
	// Anchor is where the generation is kept outside of the disk. Since version 2.
	Anchor *anchorPlace `json:"anchor,omitempty"`

	version int       // of the file that this came from
	macs    *ringMACs // of that file; nil in version 1
}

// floor is Floor for every version.
func (r ringBody) floor() int { return max(r.Floor, Format1) }

// Slot is one way to the tier key.
type Slot struct {
	ID       string          `json:"id"` // 8 hex digits, random
	Provider string          `json:"provider"`
	Label    string          `json:"label,omitempty"`
	Created  time.Time       `json:"created"` // of the slot or its last re-seal, UTC
	Blob     json.RawMessage `json:"blob"`    // the provider's own JSON
}

// maxName bounds the length of ids and providers in bytes; ours have 8 or 9.
const maxName = 64

// isName reports whether text is valid as an id or provider: it is printed in messages,
// on terminals, before the ring is authenticated.
func isName(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return text != "" && len(text) <= maxName
}

// Title names the slot in messages.
func (s Slot) Title() string {
	if s.Label == "" {
		return fmt.Sprintf("%s (%s)", s.ID, s.Provider)
	}
	return fmt.Sprintf("%s (%s %q)", s.ID, s.Provider, s.Label)
}

// clone copies the slots, so that a caller cannot change the ring through them.
func (r ringBody) clone() ringBody {
	slots := make([]Slot, len(r.Slots))
	for i, s := range r.Slots {
		s.Blob = bytes.Clone(s.Blob)
		slots[i] = s
	}
	r.Slots = slots
	if r.Previous != nil {
		p := *r.Previous
		r.Previous = &p
	}
	if r.Anchor != nil {
		a := *r.Anchor
		r.Anchor = &a
	}
	return r
}

// encodeRing gives the file of a ring as it was read or signed.
func encodeRing(body ringBody) ([]byte, error) {
	ring, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode key ring: %w", err)
	}
	data, err := json.MarshalIndent(ringFile{Version: body.version, Checksum: checksum(ring), Ring: ring, MACs: body.macs}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode key ring: %w", err)
	}
	return append(data, '\n'), nil
}

func checksum(compact []byte) string {
	sum := sha256.Sum256(compact)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// errDamagedCopy marks a single copy of the ring that cannot be used.
var errDamagedCopy = errors.New("damaged copy")

// decodeRing decodes one copy. It returns errDamagedCopy for a damaged copy and
// ErrNewerRing for an intact ring of a later version.
func decodeRing(data []byte) (ringBody, error) {
	var body ringBody
	var file ringFile
	if err := json.Unmarshal(data, &file); err != nil {
		return body, fmt.Errorf("%w: %w", errDamagedCopy, err)
	}
	if file.Version > ringVersion {
		return body, fmt.Errorf("%w: version %d, newest known is %d", ErrNewerRing, file.Version, ringVersion)
	}
	if file.Version < 1 {
		return body, fmt.Errorf("%w: version %d", errDamagedCopy, file.Version)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, file.Ring); err != nil {
		return body, fmt.Errorf("%w: %w", errDamagedCopy, err)
	}
	if got := checksum(compact.Bytes()); got != file.Checksum {
		return body, fmt.Errorf("%w: checksum mismatch", errDamagedCopy)
	}
	// The checksum holds, so an unknown field is not damage: a later version
	// added it, and rewriting the ring here would drop it. Nothing can follow the
	// value, which is a value of the file's JSON.
	if err := durable.Decode(compact.Bytes(), &body); err != nil {
		return ringBody{}, fmt.Errorf("%w: %w", ErrNewerRing, err)
	}
	body.version, body.macs = file.Version, file.MACs
	if err := body.validate(); err != nil {
		return ringBody{}, fmt.Errorf("%w: %w", errDamagedCopy, err)
	}
	return body, nil
}

func (r ringBody) validate() error {
	if _, err := uuid.Parse(r.ID); err != nil {
		return fmt.Errorf("ring id: %w", err)
	}
	if raw, err := hex.DecodeString(r.Check); err != nil || len(raw) != 16 {
		return errors.New("check value must be 16 bytes in hex")
	}
	if err := r.validateVersion(); err != nil {
		return err
	}
	if r.Previous != nil {
		if raw, err := hex.DecodeString(r.Previous.Check); err != nil || len(raw) != 16 || len(r.Previous.Key.Sealed) == 0 {
			return errors.New("previous key is incomplete")
		}
	}
	if len(r.Slots) > maxSlots {
		return fmt.Errorf("%d slots, limit is %d", len(r.Slots), maxSlots)
	}
	seen := map[string]bool{}
	for _, s := range r.Slots {
		if len(s.Blob) == 0 || !isName(s.ID) || !isName(s.Provider) {
			return errors.New("slot without id, provider or blob")
		}
		if seen[s.ID] {
			return fmt.Errorf("duplicate slot %s", s.ID)
		}
		seen[s.ID] = true
	}
	return nil
}

// validateVersion checks that a ring has what its version has, and nothing else.
func (r ringBody) validateVersion() error {
	if r.version == 1 {
		if r.Floor != 0 || r.Anchor != nil || r.macs != nil {
			return errors.New("version 1 must not have a floor, anchor or MACs")
		}
		return nil
	}
	if r.Floor != Format1 && r.Floor != Format2 {
		return fmt.Errorf("floor is %d, must be %d or %d", r.Floor, Format1, Format2)
	}
	if r.macs == nil {
		return errors.New("MACs are missing")
	}
	return nil
}
