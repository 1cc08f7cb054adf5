package vault_test

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"layervault/crypt/luks2"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
)

// verified runs and gives what was told of each layer: "tier/layer state".
func verified(t *testing.T, v *vault.Vault, name string) (told []string, err error) {
	t.Helper()
	err = v.VerifyLayers(t.Context(), vault.Verifying{Layer: name, Done: func(l vault.VerifiedLayer) error {
		told = append(told, l.Tier+"/"+l.Layer+" "+l.State)
		if (l.Err == nil) != (l.Error == "") || l.Err == nil && (l.State == vault.LayerDamaged || l.State == vault.LayerFailed) {
			t.Errorf("%+v", l)
		}
		return nil
	}})
	return told, err
}

// unsealed makes an unsealed-vault with a sealed layer.
func unsealed(t *testing.T, dir, id string) {
	t.Helper()
	cfg := vaulttest.Config(dir).Keys(persist.Unsealed)
	key, _, err := unlock.OpenOrCreate(t.Context(), cfg)
	must(t, err)
	defer key.Close()
	other := t.TempDir()
	vaulttest.AddLayer(t, other, key, id, layer.Sealed, luks2.Format2)
	l := persist.Layout{Root: dir}
	must(t, os.Rename(filepath.Join(other, "vault/layers"), l.Layers(persist.Unsealed)))
}

// Without a device, images of a header alone are damaged: each is told of, of both tiers, and the
// next one is looked at. Layers that hold nothing final are left out, unless their records lie.
func TestVerifyLayers(t *testing.T) {
	dir := t.TempDir()
	vaulttest.New(t, dir, 2)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddLayer(t, dir, key, "writable", layer.Writable, luks2.Format2)
	unsealed(t, dir, "layer9")
	must(t, os.Mkdir(filepath.Join(dir, "vault/layers/norecord"), 0o700))
	must(t, os.Mkdir(filepath.Join(dir, "vault/layers/broken"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "vault/layers/broken/layer.json"), []byte("{"), 0o600))
	v := vault.New(vaulttest.Config(dir))
	defer v.Close()

	told, err := verified(t, v, "")
	want := []string{
		"vault/broken damaged", "vault/layer0 damaged", "vault/layer1 damaged", "vault/writable damaged", "unsealed-vault/layer9 damaged",
	}
	if d := gocmp.Diff(want, told); d != "" {
		t.Error(d)
	}
	if !errors.Is(err, vault.ErrDamagedLayers) || !strings.Contains(err.Error(), "5 of 5") {
		t.Error(err)
	}
	for name, want := range map[string]string{
		"layer0": "vault/layer0 damaged", "layer9": "unsealed-vault/layer9 damaged", "lay": "", "nobody": "", "../x": "",
		filepath.Join(dir, "unsealed-vault/layers/layer9/image.luks"): "unsealed-vault/layer9 damaged",
		filepath.Join(dir, "elsewhere/layers/layer9/image.luks"):      "",
	} {
		told, err := verified(t, v, name)
		if strings.Join(told, ",") != want {
			t.Errorf("%s: %q, %v", name, told, err)
		}
		wantErr := vault.ErrDamagedLayers
		switch {
		case name == "lay":
			wantErr = vault.ErrAmbiguous
		case name == "../x":
			wantErr = layer.ErrBadID
		case want == "":
			wantErr = layer.ErrNotFound
		}
		if !errors.Is(err, wantErr) {
			t.Errorf("%s: %v, want %v", name, err, cmp.Or(wantErr, err))
		}
	}
}

// A tier that is locked does not keep the other from being verified.
func TestVerifyLayersLocked(t *testing.T) {
	dir := t.TempDir()
	vaulttest.New(t, dir, 1)
	unsealed(t, dir, "layer9")
	must(t, os.Remove(persist.Layout{Root: dir}.KeyRing(persist.Vault)))
	must(t, os.Remove(persist.Layout{Root: dir}.KeyRing(persist.Vault)+".bak"))
	v := vault.New(vaulttest.Config(dir))
	defer v.Close()
	told, err := verified(t, v, "")
	if strings.Join(told, ",") != "unsealed-vault/layer9 damaged" || !errors.Is(err, vault.ErrDamagedLayers) || !strings.Contains(err.Error(), "verify layers of vault: ") {
		t.Errorf("%q, %v", told, err)
	}
	if _, err := os.Stat(persist.Layout{Root: dir}.KeyRing(persist.Vault)); err == nil {
		t.Error("a reader made a key ring")
	}
}

// Nothing to verify is no error, and asks for no key.
func TestVerifyNoLayers(t *testing.T) {
	v := vault.New(vaulttest.Config(t.TempDir()))
	defer v.Close()
	if told, err := verified(t, v, ""); told != nil || err != nil {
		t.Errorf("%q, %v", told, err)
	}
}
