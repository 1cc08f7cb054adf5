package tpm

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"layervault/keys"
)

// minPIN is the least length of a PIN in bytes, of slots of earlier versions too. What a
// new one must have is judged by the TPM's lockout, see lockoutRules.
const minPIN = 4

// pinSalt turns a PIN into the object's auth value.
type pinSalt struct {
	Salt []byte `json:"salt"` // 16 random bytes
}

func newPINSalt() *pinSalt {
	p := &pinSalt{Salt: make([]byte, 16)}
	_, _ = rand.Read(p.Salt) // never fails since Go 1.24
	return p
}

// authValue is 32 printable bytes (192 bits): as long as SHA-256 objects allow, and
// without the trailing zero bytes that a TPM would cut off. A fast derivation is
// enough, because guesses go through the TPM's lockout. judge, if set, may refuse the PIN.
func (p *pinSalt) authValue(ctx context.Context, ask func(context.Context) ([]byte, error), judge func(pin []byte) error) ([]byte, error) {
	if ask == nil {
		return nil, fmt.Errorf("%w: slot needs a PIN", keys.ErrNeedsPerson)
	}
	pin, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	if len(pin) < minPIN {
		return nil, fmt.Errorf("%w: minimum is %d characters", ErrWrongPIN, minPIN)
	}
	if judge != nil {
		if err := judge(pin); err != nil {
			return nil, err
		}
	}
	raw, err := hkdf.Key(sha256.New, pin, p.Salt, "layervault/1/tpm-pin", 24)
	if err != nil {
		return nil, fmt.Errorf("derive from PIN: %w", err)
	}
	defer clear(raw)
	return base64.StdEncoding.AppendEncode(nil, raw), nil
}
