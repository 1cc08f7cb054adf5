package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/persist"
	"layervault/vault/vaulttest"
	"layervault/volume"
)

// A rotation takes the tier's volumes and disks along, whether it runs through or is
// taken up again, and the volumes are still themselves.
func TestRotateVolumes(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 1)
	old, _ := vaulttest.Open(t, dir)
	vaulttest.AddVolumes(t, dir, old)
	half := dir + "/vault/volumes/.a#0.tmp-1"
	if err := os.WriteFile(half, []byte("LUKS\xba\xbe"), 0o600); err != nil { // of a crash: nobody relies on it
		t.Fatal(err)
	}
	b := &vaulttest.Breaking{Left: 40, Stop: func() error { return errors.New("cut short") }}
	if err := vaulttest.Rotate(t.Context(), dir, b); err == nil {
		t.Fatal("it was not cut short")
	}
	finish(t, dir)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.CheckImages(t, "after the rotation", dir, key, old, 4)
	checkRecords(t, dir, key, old)
	used := vaulttest.VolumeStore(t, dir, key)
	defer used.Close()
	states, err := used.InspectAll(t.Context())
	if err != nil || len(states) != 3 || states[0].Name != "one" || states[1].Name != "two" {
		t.Fatalf("volumes are %+v, %v", states, err)
	}
	for _, st := range states {
		if st.State != volume.StateReady {
			t.Errorf("%s is %s: %s", st.Name, st.State, st.Reason)
		}
	}
	all, err := volume.List(t.Context(), persist.Layout{Root: dir}) // without a key
	if err != nil || len(all) != 3 || all[0].Name != "one" || all[1].Name != "two" {
		t.Errorf("volumes are %+v, %v", all, err)
	}
	// The verbs for stock cryptsetup give the passphrase of the new key.
	device := dir + "/device.json"
	text := `[{"name":"secrets","type":"luks","path":"` + dir + `/vault/disks/secrets.img,16,vault"}]`
	if err := os.WriteFile(device, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) string {
		return map[string]string{"persist": dir, "disks": device, "tpm": "/nonexistent", "key": "versatile"}[name]
	}
	for verb, file := range map[string]string{"volume key one": states[0].Path, "disk key secrets": dir + "/vault/disks/secrets.img"} {
		var out bytes.Buffer
		if status := run(t.Context(), strings.Fields(verb), streams{strings.NewReader(""), &out, &out}, env); status != 0 {
			t.Fatalf("%s: status %d: %s", verb, status, out.String())
		}
		opensWith(t, verb, file, out.Bytes())
	}
}

// checkRecords wants the records to be of key: a list, a volume of the clear tier, the
// revision, and layers.
func checkRecords(t *testing.T, dir string, key, old *keys.TierKey) {
	t.Helper()
	records, err := quietApp(dir).contents(persist.Vault).KeyedRecords(t.Context())
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
}

// opensWith wants an image to open with a passphrase.
func opensWith(t *testing.T, what, image string, passphrase []byte) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	volumeKey, _, err := h.Unlock(f, passphrase)
	clear(volumeKey)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}
