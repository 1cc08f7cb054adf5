package luks2

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// digestIterations: the volume key is random, so its digest cannot be guessed at
// either; 1000 is the least the specification allows.
const digestIterations = 1000

// verify tells whether the volume key is the one this digest was made of.
func (d digest) verify(volumeKey []byte) (bool, error) {
	if d.typ != KDFPBKDF2 {
		return false, &UnsupportedError{What: fmt.Sprintf("digest type %q", d.typ)}
	}
	k := KDF{Type: KDFPBKDF2, Hash: d.hash, Iterations: d.iterations}
	if err := k.check(); err != nil {
		return false, fmt.Errorf("digest %d: %w", d.id, err)
	}
	// 20 bytes is what LUKS1 stored, and what a converted header still holds.
	if n := len(d.digest); len(d.salt) != saltSize || (n != 20 && n != newHash(d.hash)().Size()) {
		return false, fmt.Errorf("digest %d: salt has %d bytes, digest has %d bytes: %w", d.id, len(d.salt), n, ErrDamaged)
	}
	got, err := k.derive(volumeKey, d.salt, len(d.digest))
	if err != nil {
		return false, fmt.Errorf("digest %d: %w", d.id, err)
	}
	return subtle.ConstantTimeCompare(got, d.digest) == 1, nil
}

// newDigest makes the JSON of a digest that binds key slot and segment 0.
func newDigest(volumeKey []byte, slot int) (object, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	sum, err := pbkdf2Key("sha256", volumeKey, salt, digestIterations, 32)
	if err != nil {
		return nil, err
	}
	return object{
		"type": KDFPBKDF2, "hash": "sha256", "iterations": number(digestIterations),
		"keyslots": []any{strconv.Itoa(slot)}, "segments": []any{"0"},
		"salt": base64.StdEncoding.EncodeToString(salt), "digest": base64.StdEncoding.EncodeToString(sum),
	}, nil
}

func number(n int) json.Number { return json.Number(strconv.Itoa(n)) }
