package volume_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/persist"
	"layervault/volume"
)

// oldHost is a machine as an earlier version left it: no list, and nothing authenticated.
func oldHost(t *testing.T) *host {
	h := newHost(t, true)
	h.must(h.store.SetRevision(t.Context(), "r1"))
	h.create("db", "", "db's")
	h.create("rev", "persistence=revision", "r1's")
	h.create("early", "tier=unsealed-vault", "early's")
	h.create("open", "clear=true", "open's")
	h.create("disk", "disk=secrets platform=web", "disk's")
	h.forgetList()
	h.must(os.Remove(h.cfg.Layout.VolumeList(persist.Unsealed)))
	all, err := h.store.List(t.Context())
	h.must(err)
	names := []string{filepath.Join(h.cfg.Layout.VolumeState(), "revision.json")}
	for _, v := range all {
		switch v.Name {
		case "open":
			names = append(names, filepath.Join(v.Path, "volume.json"))
		case "disk":
			names = append(names, v.Path)
		}
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		h.must(err)
		var m map[string]any
		h.must(json.Unmarshal(data, &m))
		delete(m, "mac")
		m["version"] = 1
		data, err = json.Marshal(m)
		h.must(err)
		h.must(os.WriteFile(name, data, 0o600))
	}
	h.on()
	return h
}

var oldVolumes = map[string]string{"db": "db's", "rev": "r1's", "early": "early's", "open": "open's", "disk": "disk's"}

// An upgrade that is cut short at any step leaves everything usable, and is finished by the
// next one. From then on nothing is believed that is not authenticated.
func TestUpgrade(t *testing.T) {
	power := errors.New("the power went")
	for cut := 1; ; cut++ {
		h := oldHost(t)
		for name, text := range oldVolumes {
			h.wants(name, text)
		}
		// What is not authenticated is refused in a tier that was upgraded.
		if cut == 1 {
			h.old = false
			h.on()
			for name := range oldVolumes {
				if got, err := h.shows(name); !errors.Is(err, volume.ErrDamaged) {
					t.Errorf("%s shows %q, %v", name, got, err)
				}
			}
			h.old = true
		}
		steps := 0
		h.cfg.Checkpoint = func(string) error {
			if steps++; steps == cut {
				return power
			}
			return nil
		}
		h.on()
		var whole error
		for _, tier := range []persist.Tier{persist.Vault, persist.Unsealed} {
			_, err := h.store.Upgrade(t.Context(), tier, nil)
			whole = errors.Join(whole, err)
		}
		h.cfg.Checkpoint = nil
		h.on()
		for name, text := range oldVolumes {
			h.wants(name, text)
		}
		for _, tier := range []persist.Tier{persist.Vault, persist.Unsealed} {
			_, err := h.store.Upgrade(t.Context(), tier, func(done, total int, name string) {
				if done > total || name == "" {
					t.Errorf("progress %d of %d, %q", done, total, name)
				}
			})
			h.must(err)
			old, err := h.store.Old(t.Context(), tier)
			if err != nil || len(old) > 0 {
				t.Errorf("left: %+v, %v", old, err)
			}
		}
		h.old = false
		h.on()
		for name, text := range oldVolumes {
			h.wants(name, text)
		}
		if whole == nil {
			return // there is no such step
		}
		if !errors.Is(whole, power) {
			t.Fatal(whole)
		}
	}
}

// Where there is no vault nobody can vouch for anything, and volumes of the clear tier work
// as they are. A vault that is made later does not believe them until a person says so.
func TestNoVault(t *testing.T) {
	h := newHost(t, false)
	h.must(os.Remove(h.cfg.Layout.KeyRing(persist.Vault)))
	locked := errors.New("no key ring")
	h.locks = locked
	h.must(h.store.SetRevision(t.Context(), "r1"))
	h.create("open", "clear=true", "open's")
	h.create("rev", "clear=true persistence=revision", "r1's")
	h.on()
	h.wants("open", "open's")
	h.wants("rev", "r1's")
	v, err := h.store.Purge(t.Context(), "open", volume.Options{})
	h.must(err)
	h.on()
	h.wants("open", "")
	h.must(os.WriteFile(h.cfg.Layout.KeyRing(persist.Vault), []byte("{}"), 0o600))
	h.locks = nil
	h.on()
	h.refuses("open", volume.ErrOldFormat, "unauthenticated record")
	_, err = h.store.Adopt(t.Context(), v.ID().String())
	h.must(err)
	h.wants("open", "")
}
