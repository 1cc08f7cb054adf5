package layertest

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

// Keys stands for an open vault, with keys that anyone could derive. Its floor is the
// newest format.
type Keys struct {
	// Old accepts format 1 too, as a vault does that was not upgraded.
	Old bool
	// Other makes it another vault.
	Other string
}

// Passphrase implements crypt.KeySource; plain images ask for none.
func (k Keys) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	return fmt.Appendf(nil, "%s%d %s %s %s", k.Other, format, kind, id, imageUUID), nil
}

// MAC implements crypt.KeySource.
func (k Keys) MAC(what string, data []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("layertest "+k.Other+what))
	_, _ = mac.Write(data) // never fails
	return mac.Sum(nil), nil
}

// Floor implements crypt.KeySource.
func (k Keys) Floor() int {
	if k.Old {
		return 1
	}
	return 2
}
