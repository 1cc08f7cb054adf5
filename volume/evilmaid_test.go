package volume_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/persist"
	"layervault/volume"
	"layervault/volume/volumetest"
)

// The attacker of these tests writes to the switched-off disk and has no key. As the control
// the same is done to a vault that accepts what is not authenticated, which is how a vault
// was before it was upgraded: there the attack works.

// host is a machine that is switched off and on again.
type host struct {
	*testing.T
	cfg   volume.Config
	store *volume.Store
	old   bool  // the tiers accept what is not authenticated
	locks error // the vault is locked, and why
	boots int
}

func newHost(t *testing.T, old bool) *host {
	dir := t.TempDir()
	h := &host{T: t, old: old}
	keys := func(_ context.Context, tier persist.Tier) (crypt.KeySource, error) {
		if h.locks != nil {
			return nil, h.locks
		}
		return volumetest.Keys{Old: h.old, Other: string(tier)}, nil
	}
	h.cfg = volume.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")}, Mounts: filepath.Join(dir, "mounts"), Scratch: filepath.Join(dir, "scratch"),
		Keys: keys, Devices: volumetest.Devices(keys), DefaultSize: 16 << 20, Disks: disks{filepath.Join(dir, "disk")}, Log: slog.New(slog.DiscardHandler),
	}
	h.must(os.MkdirAll(filepath.Join(dir, "disk"), 0o700))
	ring := h.cfg.Layout.KeyRing(persist.Vault)
	h.must(os.MkdirAll(filepath.Dir(ring), 0o700))
	h.must(os.WriteFile(ring, []byte("{}"), 0o600))
	t.Cleanup(func() { volumetest.UnmountBelow(t, dir) })
	h.on()
	return h
}

// disks is one disk that is a folder.
type disks struct{ dir string }

func (disks) Resolve(name string) (string, error) { return name, nil }

func (d disks) MountAt(_ context.Context, _, at string) error {
	return unix.Mount(d.dir, at, "", unix.MS_BIND, "")
}

func (h *host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// on starts the machine anew.
func (h *host) on() {
	h.Helper()
	if h.store != nil {
		volumetest.UnmountBelow(h, h.cfg.Mounts)
		h.must(h.store.Close())
	}
	h.boots++
	h.cfg.BootID = fmt.Sprint("boot-", h.boots)
	var err error
	h.store, err = volume.Open(h.Context(), h.cfg)
	h.must(err)
	h.Cleanup(func() { _ = h.store.Close() })
}

func (h *host) create(name, opts, text string) volume.Volume {
	h.Helper()
	m := map[string]string{}
	for o := range strings.FieldsSeq(opts) {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	r, err := volume.ParseOptions(m)
	h.must(err)
	v, err := h.store.Create(h.Context(), name, r)
	h.must(err)
	h.write(name, text)
	return v
}

func (h *host) write(name, text string) {
	h.Helper()
	dir, err := h.store.Mount(h.Context(), name, "writer")
	h.must(err)
	h.must(os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600))
	h.must(h.store.Unmount(h.Context(), name, "writer"))
}

// shows mounts a volume and reads its file.
func (h *host) shows(name string) (text string, err error) {
	h.Helper()
	dir, err := h.store.Mount(h.Context(), name, "reader")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(dir, "file"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return string(data), errors.Join(err, h.store.Unmount(h.Context(), name, "reader"))
}

func (h *host) wants(name, text string) {
	h.Helper()
	if got, err := h.shows(name); err != nil || got != text {
		h.Errorf("%s shows %q (%v), want %q", name, got, err, text)
	}
}

// refuses wants a volume not to open, for a reason that names it.
func (h *host) refuses(name string, want error, words ...string) {
	h.Helper()
	got, err := h.shows(name)
	if !errors.Is(err, want) {
		h.Errorf("%s shows %q (%v), want %v", name, got, err, want)
		return
	}
	for _, w := range append(words, name) {
		if !strings.Contains(err.Error(), w) {
			h.Errorf("%v does not say %q", err, w)
		}
	}
}

// token changes the record in an image's header, as an editor of LUKS2 headers does.
func (h *host) token(v volume.Volume, change func(token map[string]any)) {
	h.Helper()
	f, err := os.OpenFile(v.Path, os.O_RDWR, 0)
	h.must(err)
	defer f.Close()
	header, err := luks2.Read(f)
	h.must(err)
	tokens, err := header.Tokens()
	h.must(err)
	for _, t := range tokens {
		if t.Type != volume.TokenType {
			continue
		}
		var m map[string]any
		h.must(json.Unmarshal(t.JSON, &m))
		change(m)
		text, err := json.Marshal(m)
		h.must(err)
		_, err = header.SetToken(f, t.ID, text)
		h.must(err)
		return
	}
	h.Fatal("no token")
}

// plant makes a folder of the clear tier as an earlier version did.
func (h *host) plant(name string, id volume.ID) string {
	h.Helper()
	at := filepath.Join(h.cfg.Layout.Volumes(persist.Clear), id.String())
	h.must(os.MkdirAll(filepath.Join(at, "diff"), 0o755))
	h.must(os.WriteFile(filepath.Join(at, "diff/file"), []byte("planted"), 0o600))
	text := fmt.Sprintf(`{"version":1,"name":%q,"uuid":%q,"generation":%d,"created":"2026-01-02T03:04:05Z","options":{"tier":"clear","persistence":"permanent"}}`,
		name, id.UUID, id.Generation)
	h.must(os.WriteFile(filepath.Join(at, "volume.json"), []byte(text), 0o600))
	return at
}

func (h *host) forgetList() { h.must(os.Remove(h.cfg.Layout.VolumeList(persist.Vault))) }

// collectsNothing wants gc to destroy nothing of what is there.
func (h *host) collectsNothing(there ...string) {
	h.Helper()
	if _, err := h.store.GC(h.Context(), false); err != nil {
		h.Error(err)
	}
	for _, at := range there {
		if _, err := os.Lstat(at); err != nil {
			h.Errorf("destroyed: %v", err)
		}
	}
}

func TestEvilMaidNames(t *testing.T) {
	for _, control := range []bool{false, true} {
		h := newHost(t, control)
		db, web := h.create("db", "", "db's"), h.create("web", "", "web's")
		safe := h.create("safe", "", "safe's")
		if control {
			h.forgetList()
		}
		h.token(db, func(m map[string]any) { m["name"] = "web" })
		h.token(web, func(m map[string]any) { m["name"] = "db" })
		h.on()
		if control {
			h.wants("db", "web's")
			h.must(h.store.Remove(t.Context(), "db"))
			if _, err := os.Stat(web.Path); err == nil {
				t.Error("the control destroyed another volume")
			}
			continue
		}
		h.refuses("db", volume.ErrForged)
		h.refuses("web", volume.ErrForged)
		h.wants("safe", "safe's")
		h.collectsNothing(db.Path, web.Path, safe.Path)
		// What is removed is what the vault calls so.
		h.must(h.store.Remove(t.Context(), "db"))
		if _, err := os.Stat(db.Path); err == nil {
			t.Error("db is still there")
		}
		h.collectsNothing(web.Path)
		// Put back as it was, it opens.
		h.token(web, func(m map[string]any) { m["name"] = "web" })
		h.on()
		h.wants("web", "web's")
	}
}

func TestEvilMaidMountOptions(t *testing.T) {
	for _, control := range []bool{false, true} {
		h := newHost(t, control)
		v := h.create("db", "mountopts=nosuid,nodev", "db's")
		if control {
			h.forgetList()
		}
		h.token(v, func(m map[string]any) { m["options"].(map[string]any)["mountopts"] = "suid,dev" })
		h.on()
		if control {
			dir, err := h.store.Mount(t.Context(), "db", "1")
			h.must(err)
			if words := optionsAt(t, dir); strings.Contains(words, "nosuid") {
				t.Errorf("the control is mounted with %s", words)
			}
			continue
		}
		h.refuses("db", volume.ErrForged, "suid,dev")
		if err := h.store.MountAt(t.Context(), "db", filepath.Join(t.TempDir(), "at")); !errors.Is(err, volume.ErrForged) {
			t.Errorf("mounted for a person: %v", err)
		}
		if err := h.store.Grow(t.Context(), "db", 32<<20); !errors.Is(err, volume.ErrForged) {
			t.Errorf("grown: %v", err)
		}
		if _, err := h.store.Purge(t.Context(), "db", volume.Options{}); !errors.Is(err, volume.ErrForged) {
			t.Errorf("purged: %v", err)
		}
	}
}

func optionsAt(t *testing.T, dir string) string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(infos) == 0 {
		t.Fatalf("%s is not mounted (%v)", dir, err)
	}
	return infos[len(infos)-1].Options
}

// A folder of the clear tier in the place of an encrypted volume: by its name, by its UUID
// and a later generation, beside it or instead of it, with the list or without one.
func TestEvilMaidClearFolder(t *testing.T) {
	another := volume.ID{UUID: "11111111-2222-4333-8444-555555555555"}
	for name, tt := range map[string]struct {
		gone, noList, byName bool
		control              bool
		want                 error // nil: the encrypted volume opens
	}{
		"beside it":                {},
		"beside it, by name":       {byName: true},
		"instead of it":            {gone: true, want: volume.ErrMissing},
		"instead of it, by name":   {gone: true, byName: true, want: volume.ErrMissing},
		"without a list":           {gone: true, noList: true, want: volume.ErrOldFormat},
		"without a list, by name":  {gone: true, noList: true, byName: true, want: volume.ErrOldFormat},
		"beside it, without lists": {noList: true, want: volume.ErrUnlisted},
		"control":                  {gone: true, noList: true, control: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, tt.control)
			v := h.create("db", "", "secret")
			h.create("safe", "", "safe's")
			id := volume.ID{UUID: v.UUID, Generation: v.Generation + 7}
			if tt.byName {
				id = another
			}
			keep := filepath.Join(t.TempDir(), "keep")
			image, err := os.ReadFile(v.Path)
			h.must(err)
			h.must(os.WriteFile(keep, image, 0o600))
			if tt.gone {
				h.must(os.Remove(v.Path))
			}
			if tt.noList {
				h.forgetList()
			}
			at := h.plant("db", id)
			h.on()
			switch {
			case tt.control:
				h.wants("db", "planted") // and what is written now is written in the clear
				return
			case tt.want == nil:
				h.wants("db", "secret")
				h.write("db", "secret 2")
			default:
				h.refuses("db", tt.want)
			}
			if got, err := os.ReadFile(filepath.Join(at, "diff/file")); err != nil || string(got) != "planted" {
				t.Errorf("written in the clear: %q, %v", got, err)
			}
			if tt.gone {
				h.collectsNothing(at)
				return
			}
			h.collectsNothing(at, v.Path)
			// It is named, and can be removed by its ID; the genuine one stays.
			all, err := h.store.InspectAll(t.Context())
			h.must(err)
			named := false
			for _, st := range all {
				named = named || st.Path == at && st.State == volume.StateDamaged && strings.Contains(st.Reason, id.String())
			}
			if !named {
				t.Errorf("the folder is not named: %+v", all)
			}
			h.must(h.store.Remove(t.Context(), id.String()))
			h.collectsNothing(v.Path)
			if tt.want == nil {
				h.wants("db", "secret 2")
				h.wants("safe", "safe's")
			}
		})
	}
}

// forgedMAC changes one digit of a record's authentication.
func forgedMAC(text string) string {
	i := strings.Index(text, `"mac": "`) + len(`"mac": "`)
	digit := "0"
	if text[i] == '0' {
		digit = "1"
	}
	return text[:i] + digit + text[i+1:]
}

// A list of the attacker's own, or that of another tier, is none.
func TestEvilMaidList(t *testing.T) {
	h := newHost(t, false)
	h.create("db", "", "db's")
	h.create("web", "tier=unsealed-vault", "web's")
	name := h.cfg.Layout.VolumeList(persist.Vault)
	good, err := os.ReadFile(name)
	h.must(err)
	others, err := os.ReadFile(h.cfg.Layout.VolumeList(persist.Unsealed))
	h.must(err)
	for text, want := range map[string]error{
		strings.Replace(string(good), `"name": "db"`, `"name": "web"`, 1):      volume.ErrNotFound, // no name of its own, but see below
		strings.Replace(string(good), `"mac": "`, `"mac": "00`, 1)[:len(good)]: volume.ErrDamaged,
		forgedMAC(string(good)):    volume.ErrForged,
		string(others):             volume.ErrDamaged,
		"{}":                       volume.ErrDamaged,
		"":                         volume.ErrDamaged,
		string(good[:len(good)/2]): volume.ErrDamaged,
	} {
		h.must(os.WriteFile(name, []byte(text), 0o600))
		h.on()
		if got, err := h.shows("db"); !errors.Is(err, want) {
			t.Errorf("list %.40q: shows %q, %v", text, got, err)
		}
		if _, err := h.store.Create(t.Context(), "new", volume.Request{Options: volume.Options{Tier: persist.Vault, Persistence: volume.Permanent}, Generation: -1}); !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("list %.40q: made a volume: %v", text, err)
		}
		if text != "" && strings.Contains(text, `"name": "web"`) {
			continue // it forbids its names
		}
		h.wants("web", "web's") // the other tier is as it was
	}
	h.must(os.WriteFile(name, good, 0o600))
	h.on()
	h.wants("db", "db's")
}

// What was removed, or purged, does not come back because a copy of its file does.
func TestEvilMaidOlder(t *testing.T) {
	for _, control := range []bool{false, true} {
		h := newHost(t, control)
		gone, purged := h.create("gone", "", "gone's"), h.create("purged", "", "old")
		copies := map[string][]byte{}
		for _, v := range []volume.Volume{gone, purged} {
			data, err := os.ReadFile(v.Path)
			h.must(err)
			copies[v.Path] = data
		}
		h.must(h.store.Remove(t.Context(), "gone"))
		now, err := h.store.Purge(t.Context(), "purged", volume.Options{})
		h.must(err)
		h.write("purged", "new")
		for at, data := range copies {
			h.must(os.WriteFile(at, data, 0o600))
		}
		h.on()
		h.wants("purged", "new")
		if control {
			h.wants("gone", "gone's")
			continue
		}
		h.refuses("gone", volume.ErrUnlisted, "not in the list of volumes")
		// Nor when the present one is destroyed.
		h.must(os.Truncate(now.Path, 0))
		h.on()
		h.refuses("purged", volume.ErrDamaged)
		h.collectsNothing(purged.Path)
		h.must(os.Remove(now.Path))
		h.on()
		h.refuses("purged", volume.ErrMissing)
		h.collectsNothing(purged.Path)
		// A person may say that it is theirs.
		_, err = h.store.Adopt(t.Context(), gone.ID().String())
		h.must(err)
		h.wants("gone", "gone's")
	}
}

// Records in files: a volume of the clear tier, and one on a disk, shown under another name
// or in another place.
func TestEvilMaidFiles(t *testing.T) {
	edit := func(h *host, at string, control bool, from, to string) {
		data, err := os.ReadFile(at)
		h.must(err)
		text := strings.Replace(string(data), from, to, 1)
		if text == string(data) {
			h.Fatalf("%s is not in %s", from, data)
		}
		if control { // the authentication taken away
			var m map[string]any
			h.must(json.Unmarshal([]byte(text), &m))
			delete(m, "mac")
			data, err := json.Marshal(m)
			h.must(err)
			text = string(data)
		}
		h.must(os.WriteFile(at, []byte(text), 0o600))
	}
	for _, control := range []bool{false, true} {
		h := newHost(t, control)
		h.create("open", "clear=true persistence=revision revision=r1", "r1's")
		h.create("disk", "disk=secrets platform=web", "web's")
		h.create("theirs", "disk=secrets platform=db", "db's")
		if control {
			h.forgetList()
		}
		h.must(os.MkdirAll(filepath.Join(filepath.Dir(h.cfg.Mounts), "disk/perm/db/disk"), 0o755))
		all, err := h.store.List(t.Context())
		h.must(err)
		for _, v := range all {
			switch v.Name {
			case "open":
				h.must(os.MkdirAll(filepath.Join(v.Path, "rev/r2"), 0o755))
				h.must(os.WriteFile(filepath.Join(v.Path, "rev/r2/file"), []byte("r2's"), 0o600))
				edit(h, filepath.Join(v.Path, "volume.json"), control, `"revision": "r1"`, `"revision": "r2"`)
			case "disk":
				edit(h, v.Path, control, `"platform": "web"`, `"platform": "db"`)
			}
		}
		h.on()
		if control {
			h.wants("open", "r2's")
			h.wants("disk", "")
			continue
		}
		h.refuses("open", volume.ErrForged)
		h.refuses("disk", volume.ErrForged)
		h.wants("theirs", "db's")
		// Without the list it is the records' own authentication that fails.
		h.forgetList()
		h.on()
		h.refuses("open", volume.ErrForged)
		h.refuses("disk", volume.ErrForged)
		// Taken in as they are, because a person says so, they open.
		for _, v := range all {
			if v.Name == "open" {
				_, err := h.store.Adopt(t.Context(), v.ID().String())
				h.must(err)
			}
		}
		h.wants("open", "r2's")
	}
}

// Which revision the host runs decides what is shown, and what is destroyed.
func TestEvilMaidRevision(t *testing.T) {
	for _, control := range []bool{false, true} {
		h := newHost(t, control)
		for _, r := range []string{"r1", "r2"} {
			h.must(h.store.SetRevision(t.Context(), r))
			if r == "r1" {
				h.create("vol", "persistence=revision", "r1's")
			} else {
				h.write("vol", "r2's")
			}
		}
		name := filepath.Join(h.cfg.Layout.VolumeState(), "revision.json")
		data, err := os.ReadFile(name)
		h.must(err)
		text := strings.Replace(string(data), `"current": "r2"`, `"current": "r1"`, 1)
		if control {
			var m map[string]any
			h.must(json.Unmarshal([]byte(text), &m))
			delete(m, "mac")
			m["version"] = 1
			data, err := json.Marshal(m)
			h.must(err)
			text = string(data)
		}
		h.must(os.WriteFile(name, []byte(text), 0o600))
		h.on()
		if control {
			h.wants("vol", "r1's")
			continue
		}
		got, err := h.shows("vol")
		if !errors.Is(err, volume.ErrForged) || !errors.Is(err, volume.ErrRevisions) {
			t.Errorf("shows %q, %v", got, err)
		}
		if _, err := h.store.GCRevisions(t.Context(), nil, false); !errors.Is(err, volume.ErrForged) {
			t.Errorf("collected: %v", err)
		}
		h.must(h.store.SetRevision(t.Context(), "r2"))
		h.wants("vol", "r2's")
		h.must(h.store.SetRevision(t.Context(), "r1"))
		h.wants("vol", "r1's")
	}
}

// While the vault is locked, a volume without a key of its own can be used where nothing
// contradicts it, and nothing can be destroyed.
func TestLockedVault(t *testing.T) {
	h := newHost(t, false)
	h.create("open", "clear=true", "open's")
	v := h.create("db", "", "secret")
	at := h.plant("db", volume.ID{UUID: "11111111-2222-4333-8444-555555555555"})
	locked := errors.New("PCR 7 changed")
	h.locks = locked
	h.on()
	h.wants("open", "open's")
	h.refuses("db", locked)
	// The image out of the way, its list still forbids the folder its name.
	h.must(os.Rename(v.Path, v.Path+".away"))
	h.on()
	h.refuses("db", volume.ErrMissing)
	for _, name := range []string{"open", "db"} {
		if err := h.store.Remove(t.Context(), name); !errors.Is(err, locked) && !errors.Is(err, volume.ErrMissing) {
			t.Errorf("removed %s: %v", name, err)
		}
	}
	h.collectsNothing(at)
	if _, err := h.store.Create(t.Context(), "new", volume.Request{Options: volume.Options{Tier: persist.Clear, Persistence: volume.Permanent}, Generation: -1}); !errors.Is(err, locked) {
		t.Errorf("made a volume that nobody could vouch for: %v", err)
	}
	if err := h.store.SetRevision(t.Context(), "r1"); !errors.Is(err, locked) {
		t.Errorf("set a revision: %v", err)
	}
	h.must(os.Rename(v.Path+".away", v.Path))
	h.locks = nil
	h.on()
	h.wants("db", "secret")
}
