package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"layervault/internal/wipehash"
)

// Binding is the place a wrap belongs to. A wrap made for one place opens nowhere
// else, so slots cannot be moved between rings.
type Binding struct {
	RingID   string
	SlotID   string
	Provider string
}

func (b Binding) info() string {
	return "layervault/1/wrap/" + b.Provider + "/" + b.RingID + "/" + b.SlotID
}

// Wrapped is a tier key under a provider's wrapping key: AES-256-GCM with a key
// of HKDF-SHA256(wrapping key, Salt, binding) and the binding as associated data.
type Wrapped struct {
	Salt   []byte `json:"salt"`   // 32 random bytes, new for each wrap
	Sealed []byte `json:"sealed"` // nonce (12), ciphertext (32), tag (16)
}

// WrapKey wraps key under kek (KeySize bytes of full entropy, or the output of a
// slow KDF).
func WrapKey(kek []byte, b Binding, key []byte) (Wrapped, error) {
	w := Wrapped{Salt: make([]byte, 32)}
	_, _ = rand.Read(w.Salt) // never fails, see newTierKey
	aead, err := wrapCipher(kek, w.Salt, b)
	if err != nil {
		return Wrapped{}, err
	}
	//nolint:gosec // NewGCMWithRandomNonce makes a nonce of its own and wants none
	w.Sealed = aead.Seal(nil, nil, key, []byte(b.info()))
	return w, nil
}

// UnwrapKey is the inverse of WrapKey. It fails with ErrWrongKey when kek or the
// binding is another. The caller wipes the result.
func UnwrapKey(kek []byte, b Binding, w Wrapped) ([]byte, error) {
	aead, err := wrapCipher(kek, w.Salt, b)
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, nil, w.Sealed, []byte(b.info()))
	if err != nil {
		return nil, ErrWrongKey
	}
	return key, nil
}

func wrapCipher(kek, salt []byte, b Binding) (cipher.AEAD, error) {
	if len(kek) != KeySize {
		return nil, fmt.Errorf("%w: wrapping key has %d bytes, want %d", ErrWrongKey, len(kek), KeySize)
	}
	if len(salt) > sha256.BlockSize {
		return nil, fmt.Errorf("%w: salt has %d bytes", ErrDamagedSlot, len(salt))
	}
	var key []byte
	err := WithSecret(wipehash.StateSize, func(mem []byte) error {
		key = wipehash.In(mem).HKDF(kek, salt, b.info())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("derive wrapping key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("wrapping cipher: %w", err)
	}
	// The key is new for each wrap (random salt), so a random nonce cannot repeat.
	return cipher.NewGCMWithRandomNonce(block)
}
