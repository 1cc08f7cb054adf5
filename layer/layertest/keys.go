package layertest

import (
	"crypto/hmac"
	"crypto/sha256"
)

// Keys stands for an open vault, with keys that anyone could derive. Its floor is the
// newest format.
type Keys struct {
	// Old accepts format 1 too, as a vault does that was not upgraded.
	Old bool
	// Other makes it another vault.
	Other string
}

// Passphrase implements layer.KeySource; plain images ask for none.
func (k Keys) Passphrase(kind, id, imageUUID string) ([]byte, error) {
	return []byte(k.Other + kind + " " + id + " " + imageUUID), nil
}

// MAC implements layer.KeySource.
func (k Keys) MAC(what string, data []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("layertest "+k.Other+what))
	_, _ = mac.Write(data) // never fails
	return mac.Sum(nil), nil
}

// Floor implements layer.KeySource.
func (k Keys) Floor() int {
	if k.Old {
		return 1
	}
	return 2
}
