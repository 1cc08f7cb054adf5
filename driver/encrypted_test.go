//go:build guest

package driver_test

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"

	"layervault/crypt"
	"layervault/driver"
	"layervault/layer/layertest"
)

// tierKey stands for the vault's: full entropy is not needed to test.
var tierKey = []byte("a tier key for tests, of 32 bytes")

// testKeys derives passphrases as the key ring does.
type testKeys struct{}

func (testKeys) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	raw, err := hkdf.Key(sha256.New, tierKey, nil, "layervault/1/"+kind+"/"+id+"/"+imageUUID, 32)
	if err != nil {
		return nil, err
	}
	return hex.AppendEncode(nil, raw), nil
}

// MAC authenticates records as the key ring does.
func (testKeys) MAC(what string, data []byte) ([]byte, error) {
	return layertest.Keys{}.MAC(what, data)
}

func (testKeys) Floor() int { return layertest.Keys{}.Floor() }

// images makes encrypted images, as in production.
func images(cfg *driver.Config) {
	cfg.Unlock = func(context.Context) (crypt.KeySource, error) { return testKeys{}, nil }
}
