package keys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// AnchorSize is the length of what is kept in a place, in bytes.
const AnchorSize = 2 + 16 + 8 + sha256.Size

// note is what a place says:
//
//	version (1 byte, 1), phase (1), ring id (16), generation (8, big-endian), MAC (32)
//
// The MAC is HMAC-SHA256 over what is before it, with the key HKDF-SHA256(tier key, info
// "layervault/2/mac/anchor").
type note struct {
	phase      byte
	ring       uuid.UUID
	generation uint64
}

// The phases of a place; see Anchor.
const (
	phaseBegun   = 0
	phaseInForce = 1
)

func (n note) head() []byte {
	out := append([]byte{1, n.phase}, n.ring[:]...)
	return binary.BigEndian.AppendUint64(out, n.generation)
}

// parseNote reads a note without believing it.
func parseNote(data []byte) (n note, ok bool) {
	if len(data) != AnchorSize || data[0] != 1 || data[1] > phaseInForce {
		return n, false
	}
	n.phase, n.ring, n.generation = data[1], uuid.UUID(data[2:18]), binary.BigEndian.Uint64(data[18:26])
	return n, true
}

func (n note) encode(key *TierKey) ([]byte, error) {
	mac, err := key.MAC("anchor", n.head())
	return append(n.head(), mac...), err
}

// anchorAuth is the auth value of a ring's places: 32 printable bytes (192 bits), without
// the zeros at the end that a TPM would cut off. The caller wipes it.
func (k *TierKey) anchorAuth(ringID string) ([]byte, error) {
	raw, err := k.derive("layervault/2/anchor/" + ringID)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	return base64.StdEncoding.AppendEncode(nil, raw[:24]), nil
}

// errEmptyPlace: a place of this ring into which nothing was written.
var errEmptyPlace = errors.New("NV index is empty")

// readNote reads a place with the auth value that only the ring's key gives.
func (r *Ring) readNote(ctx context.Context, key *TierKey, body ringBody, place uint32) (note, error) {
	auth, err := key.anchorAuth(body.ID)
	if err != nil {
		return note{}, err
	}
	defer clear(auth)
	data, err := r.anchor.Read(ctx, place, auth)
	if err != nil {
		return note{}, err
	}
	if len(data) == 0 {
		return note{}, fmt.Errorf("%w at %#x: %w", ErrAnchorLost, place, errEmptyPlace)
	}
	n, ok := parseNote(data)
	if !ok {
		return note{}, fmt.Errorf("%w: malformed data at %#x", ErrAnchorLost, place)
	}
	want, err := n.encode(key)
	if err != nil {
		return note{}, err
	}
	if !hmac.Equal(want, data) {
		return note{}, fmt.Errorf("%w: data at %#x was not written with this tier key", ErrAnchorLost, place)
	}
	if n.ring.String() != body.ID {
		return note{}, fmt.Errorf("%w: TPM recorded ring %s, this is ring %s", ErrOtherRing, n.ring, body.ID)
	}
	return n, nil
}

// writeNote has to (Make or Write) put body's generation into its place.
func (r *Ring) writeNote(ctx context.Context, key *TierKey, body ringBody, phase byte, to func(context.Context, uint32, []byte, []byte) error) error {
	id, err := uuid.Parse(body.ID)
	if err != nil {
		return fmt.Errorf("ring id: %w", err)
	}
	data, err := note{phase: phase, ring: id, generation: body.Generation}.encode(key)
	if err != nil {
		return err
	}
	auth, err := key.anchorAuth(body.ID)
	if err != nil {
		return err
	}
	defer clear(auth)
	return to(ctx, body.Anchor.Place, auth, data)
}
