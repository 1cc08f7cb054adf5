package tpm

import (
	"crypto/sha256"
	"sync"

	"layervault/keys"
)

// refused remembers, for as long as the process lives, the PINs that a TPM refused: a
// plugin whose PIN file is wrong is asked again and again, and each try counts towards a
// lockout of everything that is sealed in the TPM. Another PIN, as when the file changes,
// is tried; so is any PIN for a slot that was sealed anew.
var refused = refusals{seen: map[[sha256.Size]byte]bool{}}

// maxRefused bounds that memory: entries, of 32 bytes. A person types a handful.
const maxRefused = 1024

type refusals struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte]bool
}

// before says whether auth was refused for the object before.
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
