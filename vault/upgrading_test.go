package vault_test

import (
	"errors"
	"testing"

	"layervault/crypt"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
)

// A process that serves layers alone upgrades the whole vault, its volumes included: it may be the
// only one of the host.
func TestUpgradingWithoutVolumes(t *testing.T) {
	l := frozen(t)
	v := vault.New(vaulttest.Config(l.Root))
	source, err := v.Borrow(t.Context())
	must(t, err)
	layers, err := layer.Open(t.Context(), layer.Config{Root: l.Layers(persist.Vault), Keys: source, Devices: layer.NewDevices(source, crypt.Params{}, crypt.VerityPrefer, quiet), Log: quiet})
	must(t, err)
	defer func() { must(t, errors.Join(layers.Close(t.Context()), v.Close())) }()
	u := vault.NewUpgrading(v, true, false, false)
	u.LayersOpen(layers)
	u.Run(t.Context())
	for _, tier := range vault.SealedTiers {
		ring, err := keys.Load(t.Context(), l.KeyRing(tier), quiet)
		must(t, err)
		found, err := vault.Survey(t.Context(), contents(l, tier), nil)
		must(t, err)
		if ring.Floor() != keys.Format2 || found.Old() != 0 {
			t.Errorf("%s: floor %d, %+v", tier, ring.Floor(), found)
		}
	}
}
