package keys

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"layervault/internal/wipehash"
)

// KeySize is the length of a tier key and of every key that wraps it, in bytes.
const KeySize = 32

// TierKey is the key of one tier, held in locked memory. It is safe for
// concurrent use. Close it when the last image has been opened.
type TierKey struct {
	mu  sync.RWMutex
	mem *secret // the key, and from scratchAt on room to derive keys in

	scratch sync.Mutex
}

// scratchAt is where that room begins: both are in one page, which every RLIMIT_MEMLOCK
// allows.
const scratchAt = 64

// newTierKey makes a random key.
func newTierKey() (*TierKey, error) {
	mem, err := newSecret(scratchAt + wipehash.StateSize)
	if err != nil {
		return nil, err
	}
	// rand.Read never fails since Go 1.24: it ends the program instead.
	_, _ = rand.Read(mem.page[:KeySize])
	return &TierKey{mem: mem}, nil
}

// tierKeyFrom moves key into locked memory and wipes key.
func tierKeyFrom(key []byte) (*TierKey, error) {
	defer clear(key)
	if len(key) != KeySize {
		return nil, fmt.Errorf("%w: tier key has %d bytes, want %d", ErrDamagedSlot, len(key), KeySize)
	}
	mem, err := newSecret(scratchAt + wipehash.StateSize)
	if err != nil {
		return nil, err
	}
	copy(mem.page, key)
	return &TierKey{mem: mem}, nil
}

// Passphrase derives the LUKS2 passphrase of one image: 32 bytes of HKDF-SHA256(tier key,
// info "layervault/<format>/<kind>/<id>/<imageUUID>") as 64 lower case hex digits, usable
// with cryptsetup --key-file. format is the image's, 1 or 2: a format 2 image without its
// authentication token does not open as format 1. Another kind, id or UUID gives another
// passphrase, so two images swapped on the disk both fail to open. The parts must not be
// empty and must not contain "/". The caller wipes the result.
func (k *TierKey) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	if format != 1 && format != 2 {
		return nil, fmt.Errorf("derive an image passphrase: unknown image format %d", format)
	}
	for _, part := range []string{kind, id, imageUUID} {
		if part == "" || strings.Contains(part, "/") {
			return nil, fmt.Errorf("derive an image passphrase: invalid kind, id or UUID %q", part)
		}
	}
	raw, err := k.derive("layervault/" + strconv.Itoa(format) + "/" + kind + "/" + id + "/" + imageUUID)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	return hex.AppendEncode(make([]byte, 0, 2*KeySize), raw), nil
}

// MAC authenticates a record: HMAC-SHA256 over data, 32 bytes, under a subkey of 32 bytes
// (HKDF-SHA256 of the tier key, info "layervault/2/mac/<what>"). what names the kind of
// record, so that one is never taken for another; it must not be empty.
func (k *TierKey) MAC(what string, data []byte) ([]byte, error) {
	if what == "" {
		return nil, errors.New("authenticate a record: kind is empty")
	}
	subkey, err := k.derive("layervault/2/mac/" + what)
	if err != nil {
		return nil, err
	}
	defer clear(subkey)
	var out [wipehash.Size]byte
	err = k.use(func([]byte) error {
		k.scratch.Lock()
		defer k.scratch.Unlock()
		wipehash.In(k.mem.page[scratchAt:]).HMAC(&out, subkey, data)
		return nil
	})
	return out[:], err
}

// checkValue verifies that an unwrapped key is the ring's: 16 bytes of HKDF output, from
// which the key cannot be derived. It differs between the versions: a ring made as
// version 2 cannot be rewritten as version 1, which has no MAC.
func (k *TierKey) checkValue(version int, ringID string) (string, error) {
	raw, err := k.derive(fmt.Sprintf("layervault/%d/check/%s", version, ringID))
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(raw[:16]), nil
}

func (k *TierKey) derive(info string) ([]byte, error) {
	var out []byte
	err := k.use(func(key []byte) error {
		k.scratch.Lock()
		defer k.scratch.Unlock()
		out = wipehash.In(k.mem.page[scratchAt:]).HKDF(key, nil, info)
		return nil
	})
	return out, err
}

// use lends the key bytes to fn, which must not keep them.
func (k *TierKey) use(fn func(key []byte) error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.mem == nil {
		return ErrClosed
	}
	return fn(k.mem.page[:KeySize:KeySize])
}

// Lend passes the key bytes to fn, which must not keep them: for escrow, wrapped.
func (k *TierKey) Lend(fn func(key []byte) error) error { return k.use(fn) }

// Close wipes the key. It may be called twice.
func (k *TierKey) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mem == nil {
		return nil
	}
	err := k.mem.destroy()
	k.mem = nil
	if err != nil {
		return errors.Join(errors.New("wipe the tier key"), err)
	}
	return nil
}

// String keeps the key out of anything that prints it.
func (k *TierKey) String() string { return "tier key (hidden)" }

// GoString keeps the key out of %#v.
func (k *TierKey) GoString() string { return k.String() }
