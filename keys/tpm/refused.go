package tpm

import (
	"crypto/sha256"
	"sync"

	"layervault/keys"
)

// refused records the PINs that a TPM rejected, for the life of the process: a plugin
// with a wrong PIN file retries repeatedly, and each try counts towards a lockout of all
// sealed objects in the TPM. Another PIN is tried, for instance after the file changes;
// so is any PIN for a resealed slot.
var refused = refusals{seen: map[[sha256.Size]byte]bool{}}

// maxRefused bounds that memory: entries, of 32 bytes. A person types a handful.
const maxRefused = 1024

type refusals struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte]bool
}

// before reports whether auth was rejected for the object before.
func (r *refusals) before(object, auth []byte) (bool, error) {
	sum, err := keys.SHA256(auth, object)
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[sum], nil
}

// add remembers that auth was refused for the object.
func (r *refusals) add(object, auth []byte) error {
	sum, err := keys.SHA256(auth, object)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) >= maxRefused {
		clear(r.seen)
	}
	r.seen[sum] = true
	return nil
}
