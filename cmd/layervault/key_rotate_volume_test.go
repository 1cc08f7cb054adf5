package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"layervault/crypt/luks2"
	"layervault/disk"
	"layervault/keys"
	"layervault/persist"
	"layervault/volume"
	"layervault/volume/volumetest"
)

// addVolumes makes volumes, and the image of a disk, whose LUKS2 headers want key.
func addVolumes(t *testing.T, dir string, key *keys.TierKey) {
	t.Helper()
	open := func(context.Context, persist.Tier) (volume.KeySource, error) { return newRing{key}, nil }
	s, err := volume.Open(t.Context(), volume.Config{
		Layout: persist.Layout{Root: dir}, Mounts: dir + "/m", Scratch: dir + "/s", Keys: open, Devices: volumetest.Devices(open),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.SetRevision(t.Context(), "r1"); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]map[string]string{"one": {"size": "16M"}, "two": {"size": "16M"}, "zclear": {"clear": "true"}} {
		r, err := volume.ParseOptions(opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(t.Context(), name, r); err != nil {
			t.Fatal(err)
		}
	}
	at := persist.Layout{Root: dir}.Disks(persist.Vault)
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(at, "secrets.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image := uuid.NewString()
	pass, err := key.Passphrase(luks2.Format2, disk.KeyKind, "secrets.img", image)
	if err != nil {
		t.Fatal(err)
	}
	_, volumeKey, err := luks2.Format(f, luks2.Params{UUID: image, KeySize: 32, Owner: &luks2.Owner{Kind: disk.KeyKind, ID: "secrets.img"}}, luks2.RandomKeyKDF(), pass)
	if err != nil {
		t.Fatal(err)
	}
	clear(volumeKey)
}

// A rotation takes the tier's volumes and disks along, whether it runs through or is
// taken up again, and the volumes are still themselves.
func TestRotateVolumes(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 1)
	old, _ := openKey(t, dir)
	addVolumes(t, dir, old)
	half := dir + "/vault/volumes/.a#0.tmp-1"
	if err := os.WriteFile(half, luksMagic, 0o600); err != nil { // of a crash: nobody relies on it
		t.Fatal(err)
	}
	b := &breaking{left: 40, stop: func() error { return errors.New("cut short") }}
	if err := rotateBreaking(t.Context(), dir, b); err == nil {
		t.Fatal("it was not cut short")
	}
	finish(t, dir)
	key, _ := openKey(t, dir)
	checkImages(t, "after the rotation", dir, key, old, 4)
	// So do the records: a list, a volume of the clear tier and the revision, and layers.
	records, err := quietApp(dir).tierRecords(t.Context(), persist.Vault)
	if err != nil || len(records) != 5 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for _, r := range records {
		if err := r.Opens(t.Context(), key); err != nil {
			t.Errorf("%s: %v", r.Title(), err)
		}
		if err := r.Opens(t.Context(), old); strings.HasPrefix(r.Title(), "record of volume") && !errors.Is(err, volume.ErrForged) {
			t.Errorf("%s with the old key: %v", r.Title(), err)
		}
	}
	open := func(context.Context, persist.Tier) (volume.KeySource, error) { return newRing{key}, nil }
	used, err := volume.Open(t.Context(), volume.Config{Layout: persist.Layout{Root: dir}, Mounts: dir + "/m", Scratch: dir + "/s", Keys: open, Devices: volumetest.Devices(open)})
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	states, err := used.InspectAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range states {
		if st.State != volume.StateReady {
			t.Errorf("%s is %s: %s", st.Name, st.State, st.Reason)
		}
	}
	s, err := volume.Open(t.Context(), volume.Config{Layout: persist.Layout{Root: dir}, Mounts: dir + "/m", Scratch: dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, err := s.List(t.Context())
	// The verbs for stock cryptsetup give the passphrase of the new key.
	device := dir + "/device.json"
	text := `[{"name":"secrets","type":"luks","path":"` + dir + `/vault/disks/secrets.img,16,vault"}]`
	if err := os.WriteFile(device, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for verb, file := range map[string]string{"volume key one": all[0].Path, "disk key secrets": dir + "/vault/disks/secrets.img"} {
		var out bytes.Buffer
		env := func(name string) string {
			return map[string]string{"persist": dir, "disks": device, "tpm": "/nonexistent", "key": "versatile"}[name]
		}
		if status := run(t.Context(), strings.Fields(verb), streams{strings.NewReader(""), &out, &out}, env); status != 0 {
			t.Fatalf("%s: status %d: %s", verb, status, out.String())
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		h, err := luks2.Read(f)
		if err != nil {
			t.Fatal(err)
		}
		volumeKey, _, err := h.Unlock(f, out.Bytes())
		clear(volumeKey)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if err != nil || len(all) != 3 || all[0].Name != "one" || all[1].Name != "two" {
		t.Errorf("volumes are %+v, %v", all, err)
	}
}

// Whoever has the key for volumes keeps a rotation off, and the other way round.
func TestRotateWaitsForVolumes(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 0)
	a := quietApp(dir)
	unlock, err := a.shareTier(persist.Vault)
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.shareTier(persist.Vault)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.lockTier(persist.Vault); exitStatus(err) != statusInUse {
		t.Errorf("rotates beside volumes: %v", err)
	}
	if err := errors.Join(unlock(), second()); err != nil {
		t.Fatal(err)
	}
	release, err := a.lockTier(persist.Vault)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.shareTier(persist.Vault); exitStatus(err) != statusInUse {
		t.Errorf("used beside a rotation: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

// A process opens each tier once, and lets go of all.
func TestTiers(t *testing.T) {
	dir := memoryDir(t)
	a := quietApp(dir)
	tiers := newTiers(a, settings{key: "versatile"}, nil, a.ringLog())
	for _, tier := range []persist.Tier{persist.Vault, persist.Unsealed} {
		first, err := tiers.forVolumes(t.Context(), tier)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := tiers.forVolumes(t.Context(), tier); err != nil || again != first {
			t.Errorf("%s: opened twice, %v", tier, err)
		}
		if _, err := os.Stat(persist.Layout{Root: dir}.KeyRing(tier)); err != nil {
			t.Error(err)
		}
	}
	if _, err := tiers.forVolumes(t.Context(), persist.Clear); err == nil {
		t.Error("the clear tier has a key")
	}
	d, err := tiers.forDriver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Passphrase(1, "layer", "a", "b"); err != nil {
		t.Error(err)
	}
	if _, err := a.lockTier(persist.Unsealed); exitStatus(err) != statusInUse {
		t.Errorf("rotates beside its user: %v", err)
	}
	if err := tiers.Close(); err != nil {
		t.Fatal(err)
	}
	release, err := a.lockTier(persist.Unsealed)
	if err != nil {
		t.Fatal(err)
	}
	_ = release()
	if _, err := d.Passphrase(1, "layer", "a", "b"); !errors.Is(err, keys.ErrClosed) {
		t.Errorf("after closing: %v", err)
	}
}

// newRing is the key of a ring that accepts the newest format only.
type newRing struct{ *keys.TierKey }

func (newRing) Floor() int { return 2 }
