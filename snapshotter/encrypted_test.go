//go:build guest

package snapshotter_test

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"

	"layervault/crypt"
	"layervault/layer"
	"layervault/layer/layertest"
)

// tierKey stands for the vault's: full entropy is not needed to test.
var tierKey = []byte("a tier key for tests, of 32 bytes")

// testKeys derives passphrases as the key ring does.
type testKeys struct{ layertest.Keys }

func (testKeys) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	raw, err := hkdf.Key(sha256.New, tierKey, nil, "layervault/1/"+kind+"/"+id+"/"+imageUUID, 32)
	if err != nil {
		return nil, err
	}
	return hex.AppendEncode(nil, raw), nil
}

// images makes encrypted images, as in production.
func images(cfg *layer.Config) {
	cfg.Keys = testKeys{}
	cfg.Devices = layer.NewDevices(testKeys{}, crypt.CryptParams{}, slog.Default())
}
