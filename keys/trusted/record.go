package trusted

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"layervault/keys"
)

// sectorSize is the one sector of the device that a tier key rests on, in bytes: the
// smallest that dm-crypt encrypts.
const sectorSize = 512

// The sector in the clear:
//
//	 0 [16] magic
//	16 [32] the tier key
//	48 [32] SHA-256 of ring id, slot id and key
//	80      zeros
//
// dm-crypt does not authenticate: a changed sector decrypts to noise, which the checksum
// finds. Ring and slot are in it, so a sector that was moved from another slot is found too.
const (
	recordMagic = "layervault/1/key"
	offKey      = len(recordMagic)
	offSum      = offKey + keys.KeySize
	offZeros    = offSum + sha256.Size
)

func writeRecord(sector []byte, b keys.Binding, key []byte) error {
	if len(key) != keys.KeySize {
		return fmt.Errorf("%w: key has %d bytes, want %d", keys.ErrWrongKey, len(key), keys.KeySize)
	}
	clear(sector)
	copy(sector, recordMagic)
	copy(sector[offKey:], key)
	sum, err := recordSum(b, key)
	copy(sector[offSum:], sum[:])
	return err
}

// readRecord gives a copy of the key, which the caller wipes.
func readRecord(sector []byte, b keys.Binding) ([]byte, error) {
	key := sector[offKey:offSum]
	sum, err := recordSum(b, key)
	if err != nil {
		return nil, err
	}
	whole := string(sector[:offKey]) == recordMagic && subtle.ConstantTimeCompare(sum[:], sector[offSum:offZeros]) == 1 &&
		len(bytes.Trim(sector[offZeros:], "\x00")) == 0
	if !whole {
		return nil, fmt.Errorf("%w: checksum mismatch; slot was damaged, or moved here from another slot", keys.ErrWrongKey)
	}
	return bytes.Clone(key), nil
}

func recordSum(b keys.Binding, key []byte) ([sha256.Size]byte, error) {
	return keys.SHA256([]byte("layervault/1/trusted/"+b.RingID+"/"+b.SlotID+"/"), key)
}

// blob is a slot in the ring.
type blob struct {
	Source string `json:"source"` // ParseSource
	Cipher string `json:"cipher"` // of the sector, as dm-crypt names it
	// Sealed is the key as the kernel gives it: hex of a trusted or tagged key's blob, or
	// the line of an encrypted key.
	Sealed string `json:"sealed"`
	Sector []byte `json:"sector"` // ciphertext
	Weak   string `json:"weak,omitempty"`
}

// maxSealed bounds a sealed key in hex digits. The kernel's largest blob has 512 bytes
// (MAX_BLOB_SIZE in <keys/trusted-type.h>), its largest line of an encrypted key about 600
// characters.
const maxSealed = 4096

// parseBlob validates all values before they reach the kernel: an attacker with write
// access to the disk can write slots.
func parseBlob(raw json.RawMessage) (slot blob, src Source, c cipher, err error) {
	if err := json.Unmarshal(raw, &slot); err != nil {
		return slot, src, c, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	if src, err = ParseSource(slot.Source); err != nil || src.None() {
		return slot, src, c, fmt.Errorf("%w: unknown source %q", keys.ErrDamagedSlot, slot.Source)
	}
	c, known := src.cipherNamed(slot.Cipher)
	switch {
	case !known:
		return slot, src, c, fmt.Errorf("%w: cipher %q does not match source %s", keys.ErrDamagedSlot, slot.Cipher, src)
	case len(slot.Sector) != sectorSize:
		return slot, src, c, fmt.Errorf("%w: sector has %d bytes, want %d", keys.ErrDamagedSlot, len(slot.Sector), sectorSize)
	case len(slot.Sealed) > maxSealed || !sealedFits(src, c, slot.Sealed):
		return slot, src, c, fmt.Errorf("%w: sealed key is not of source %s", keys.ErrDamagedSlot, src)
	}
	return slot, src, c, nil
}

// sealedFits keeps options out of what is loaded: the kernel's parser would take them.
func sealedFits(src Source, c cipher, sealed string) bool {
	if src.kind == kindEncrypted {
		head := fmt.Sprintf("default %s %d ", src.master, c.key)
		rest, ok := strings.CutPrefix(sealed, head)
		return ok && isHex(rest)
	}
	return isHex(sealed)
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && s != ""
}
