package keys_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/versatile"
)

// ringJSON is a ring as somebody with an editor sees it.
type ringJSON struct {
	file, ring map[string]any
}

func (r ringJSON) slots() []any { return r.ring["slots"].([]any) }

func (r ringJSON) slot(i int) map[string]any { return r.slots()[i].(map[string]any) }

// forge edits both copies of a ring as who can write to the disk can: the checksum fits.
func forge(t *testing.T, path string, edit func(ringJSON)) {
	t.Helper()
	r := ringJSON{}
	if err := json.Unmarshal(read(t, path), &r.file); err != nil {
		t.Fatal(err)
	}
	r.ring = r.file["ring"].(map[string]any)
	edit(r)
	// The order of the fields is the decoder's business; the checksum is over the text.
	text, err := json.Marshal(r.ring)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	r.file["checksum"] = "sha256:" + hex.EncodeToString(sum[:])
	r.file["ring"] = json.RawMessage(text)
	data, err := json.Marshal(r.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".bak"} {
		write(t, name, data)
	}
}

// two makes a ring with two slots.
func two(t *testing.T) (*keys.Ring, *keys.TierKey, keys.Provider) {
	t.Helper()
	ring, key, p := vault(t)
	if _, err := ring.Enroll(t.Context(), key, p, "second"); err != nil {
		t.Fatal(err)
	}
	return ring, key, p
}

// edits are what somebody may do to a ring, and what is said of it.
func edits(t *testing.T) map[string]struct {
	edit func(ringJSON)
	want string
} {
	_, _, foreign := vault(t)
	blob, err := foreign.Wrap(t.Context(), keys.Binding{RingID: "x", SlotID: "dead0000", Provider: "versatile"}, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]struct {
		edit func(ringJSON)
		want string
	}{
		"slot planted": {func(r ringJSON) {
			r.ring["slots"] = append(r.slots(), map[string]any{"id": "dead0000", "provider": "versatile", "created": "2026-01-01T00:00:00Z", "blob": json.RawMessage(blob)})
		}, "slot dead0000 (versatile) was added"},
		"slot taken out": {func(r ringJSON) { r.ring["slots"] = r.slots()[:1] }, "was removed"},
		"slots swapped":  {func(r ringJSON) { s := r.slots(); s[0], s[1] = s[1], s[0] }, "in another order"},
		"label edited":   {func(r ringJSON) { r.slot(1)["label"] = "trusted by all" }, `"trusted by all") was changed`},
		"blob edited":    {func(r ringJSON) { r.slot(1)["blob"].(map[string]any)["file"] = "/elsewhere" }, "was changed or added"},
		"provider":       {func(r ringJSON) { r.slot(1)["provider"] = "recovery" }, "was changed or added"},
		"created":        {func(r ringJSON) { r.slot(1)["created"] = "2020-01-01T00:00:00Z" }, "was changed or added"},
		"generation":     {func(r ringJSON) { r.ring["generation"] = 99 }, "generation"},
		"floor lowered":  {func(r ringJSON) { r.ring["floor"] = 1 }, "floor"},
		"anchor":         {func(r ringJSON) { r.ring["anchor"] = map[string]any{"kind": "tpm-nv", "place": 1} }, "anchor"},
		"previous planted": {func(r ringJSON) {
			r.ring["previous"] = map[string]any{"check": strings.Repeat("00", 16), "begun": "2026-01-01T00:00:00Z", "wrapped": map[string]any{"salt": "AA==", "sealed": "AA=="}}
		}, "previous key of a rotation"},
		"MAC edited": {func(r ringJSON) {
			r.file["macs"].(map[string]any)["ring"] = strings.Repeat("00", 32)
		}, "in another order"},
		"MACs of slots dropped": {func(r ringJSON) {
			macs := r.file["macs"].(map[string]any)
			macs["slots"], r.slot(0)["label"] = map[string]any{}, "x"
		}, "was added"},
	}
}

// What somebody without the tier key did to the ring is refused after unlocking, by name;
// nothing is written, and nobody signs it unawares.
func TestForgedRing(t *testing.T) {
	for name, tc := range edits(t) {
		t.Run(name, func(t *testing.T) {
			ring, key, p := two(t)
			forge(t, ring.Path(), tc.edit)
			forged := read(t, ring.Path())
			again, err := keys.Load(t.Context(), ring.Path(), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = again.Unlock(t.Context(), p)
			var what *keys.ForgedRing
			if !errors.Is(err, keys.ErrForgedRing) || !errors.As(err, &what) || !errors.Is(err, keys.ErrLocked) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(strings.Join(what.Changed, "; "), tc.want) {
				t.Errorf("named as %q, want %q", what.Changed, tc.want)
			}
			if err := again.Proves(key); !errors.Is(err, keys.ErrForgedRing) {
				t.Errorf("proves: %v", err)
			}
			// The writers begin from what is on disk.
			for verb, err := range map[string]error{
				"enroll": func() error { _, err := ring.Enroll(t.Context(), key, p, ""); return err }(),
				"reseal": func() error { _, err := ring.Reseal(t.Context(), key, ring.Slots()[0].ID, p); return err }(),
				"remove": ring.Remove(t.Context(), key, ring.Slots()[0].ID, true),
				"floor":  ring.SetFloor(t.Context(), key, keys.Format2),
				"rotate": func() error {
					_, err := ring.Rotate(t.Context(), key, keys.Rotation{Carry: carryAll(t, ring, p, nil)})
					return err
				}(),
			} {
				if !errors.Is(err, keys.ErrForgedRing) {
					t.Errorf("%s: %v", verb, err)
				}
			}
			if !bytes.Equal(read(t, ring.Path()), forged) {
				t.Error("the forged ring was written to")
			}
		})
	}
}

// The control: written anew without an edit, in another order of fields, it opens.
func TestRingWrittenAnewOpens(t *testing.T) {
	ring, key, p := two(t)
	forge(t, ring.Path(), func(ringJSON) {})
	mustOpen(t, ring.Path(), p, key)
}

// The control: the same edits of a ring of version 1, which has no MAC, go unnoticed.
func TestForgedRingOfVersion1(t *testing.T) {
	for _, name := range []string{"slot planted", "label edited", "generation"} {
		dir := format1(t)
		path := filepath.Join(dir, keys.FileName)
		forge(t, path, edits(t)[name].edit)
		reload(t, path, versatile.New(filepath.Join(dir, "versatile.key")))
	}
}

// format1 is a copy of the frozen vault of version 1.
func format1(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"keyring.json", "versatile.key"} {
		write(t, filepath.Join(dir, name), read(t, filepath.Join("testdata/format1", name)))
	}
	return dir
}

// Without its MACs a ring of version 2 is none of version 1 either: nothing proves its key.
func TestNoWayBackToVersion1(t *testing.T) {
	ring, _, p := two(t)
	forge(t, ring.Path(), func(r ringJSON) {
		r.file["version"] = 1
		delete(r.file, "macs")
		delete(r.ring, "floor")
		r.slot(0)["label"] = "forged"
	})
	again, err := keys.Load(t.Context(), ring.Path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.Version() != 1 {
		t.Fatalf("version %d", again.Version())
	}
	if _, _, err := again.Unlock(t.Context(), p); !errors.Is(err, keys.ErrWrongKey) {
		t.Fatalf("got %v", err)
	}
	for name, edit := range map[string]func(ringJSON){
		"no MACs":  func(r ringJSON) { delete(r.file, "macs") },
		"no floor": func(r ringJSON) { delete(r.ring, "floor") },
		"floor 3":  func(r ringJSON) { r.ring["floor"] = 3 },
		"floor -1": func(r ringJSON) { r.ring["floor"] = -1 },
		"version 1, floor": func(r ringJSON) {
			r.file["version"] = 1
			delete(r.file, "macs")
		},
	} {
		ring, _, _ := two(t)
		forge(t, ring.Path(), edit)
		if _, err := keys.Load(t.Context(), ring.Path(), nil); !errors.Is(err, keys.ErrDamagedRing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A ring of version 1 becomes one of version 2 with the first change, and its floor rises
// when the images have.
func TestVersion1BecomesVersion2(t *testing.T) {
	dir := format1(t)
	path, p := filepath.Join(dir, keys.FileName), versatile.New(filepath.Join(dir, "versatile.key"))
	ring, key := reload(t, path, p)
	if ring.Version() != 1 || ring.Floor() != keys.Format1 {
		t.Fatalf("version %d, floor %d", ring.Version(), ring.Floor())
	}
	if _, err := ring.Enroll(t.Context(), key, p, "new"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ring.Version() != 2 || ring.Floor() != keys.Format1 || len(ring.Slots()) != 4 {
			t.Fatalf("version %d, floor %d, %d slots", ring.Version(), ring.Floor(), len(ring.Slots()))
		}
		ring, key = reload(t, path, p)
	}
	if err := ring.SetFloor(t.Context(), key, keys.Format2); err != nil {
		t.Fatal(err)
	}
	ring, key = reload(t, path, p)
	if ring.Floor() != keys.Format2 {
		t.Fatalf("floor %d", ring.Floor())
	}
	for _, floor := range []int{0, 1, 3} {
		if err := ring.SetFloor(t.Context(), key, floor); err == nil {
			t.Errorf("the floor became %d", floor)
		}
	}
	// The recovery key of version 1 opens it too, and the key is the same.
	line := bytes.TrimSpace(read(t, "testdata/format1/recovery.txt"))
	_, same := reload(t, path, recovery.Typed(line))
	if !bytes.Equal(passphrase(t, same), passphrase(t, key)) {
		t.Error("another key")
	}
}

// A rotation, a backup and its return take a ring from version to version, and the floor
// with it.
func TestFloorOutlivesRotationAndRestore(t *testing.T) {
	dir := format1(t)
	path, p := filepath.Join(dir, keys.FileName), versatile.New(filepath.Join(dir, "versatile.key"))
	ring, key := reload(t, path, p)
	old := backup(t, ring)
	drop := []string{ring.Slots()[1].ID, ring.Slots()[2].ID}
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Carry: map[string]keys.Provider{ring.Slots()[0].ID: p}, Drop: drop}); err != nil {
		t.Fatal(err)
	}
	ring, key = reload(t, path, p)
	if ring.Version() != 2 || ring.Floor() != keys.Format1 {
		t.Fatalf("version %d, floor %d", ring.Version(), ring.Floor())
	}
	if err := ring.SetFloor(t.Context(), key, keys.Format2); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Carry: carryAll(t, ring, p, nil)}); err != nil {
		t.Fatal(err)
	}
	ring, _ = reload(t, path, p)
	if ring.Floor() != keys.Format2 {
		t.Fatalf("the rotation set the floor to %d", ring.Floor())
	}
	// The backup of version 1 comes back as it was, and with its key as version 2.
	if err := restore(t, old, path, true); err != nil {
		t.Fatal(err)
	}
	ring, key = reload(t, path, p)
	if ring.Version() != 1 {
		t.Fatalf("restored as version %d without the key", ring.Version())
	}
	again, err := keys.ReadBackup(old, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Restore(t.Context(), key, true); err != nil {
		t.Fatal(err)
	}
	ring, _ = reload(t, path, p)
	if ring.Version() != 2 || ring.Floor() != keys.Format1 {
		t.Fatalf("version %d, floor %d", ring.Version(), ring.Floor())
	}
	if _, err := keys.ReadBackup(backup(t, ring), path, nil); err != nil {
		t.Fatal(err)
	}
}

// The blocks of a copy that was replaced hold no removed slot: whoever still has the old
// file open, as a raw disk has, reads zeros.
func TestRemovedSlotIsOverwritten(t *testing.T) {
	ring, key, _ := two(t)
	var old []*os.File
	for _, name := range []string{ring.Path(), ring.Path() + ".bak"} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		old = append(old, f)
	}
	if err := ring.Remove(t.Context(), key, ring.Slots()[1].ID, false); err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		data, err := io.ReadAll(f)
		if err != nil || len(data) == 0 || len(bytes.Trim(data, "\x00")) != 0 {
			t.Errorf("%s: %d bytes are left of the old copy, %v", f.Name(), len(bytes.Trim(data, "\x00")), err)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(ring.Path()), ".tmp-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A crash between the renaming and the overwriting leaves the old copy under a name that
// the next write knows; one before the renaming leaves a second name of the ring itself.
func TestOldCopyOfACrashIsOverwritten(t *testing.T) {
	ring, key, p := two(t)
	left := filepath.Join(filepath.Dir(ring.Path()), ".tmp-keyring.json-old-1")
	write(t, left, []byte("an old ring"))
	f, err := os.Open(left)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	same := filepath.Join(filepath.Dir(ring.Path()), ".tmp-keyring.json.bak-old-1")
	if err := os.Link(ring.Path()+".bak", same); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Enroll(t.Context(), key, p, ""); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(f); err != nil || !bytes.Equal(data, make([]byte, len("an old ring"))) {
		t.Errorf("left: %q, %v", data, err)
	}
	for _, name := range []string{left, same} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	mustOpen(t, ring.Path(), p, key)
}

// What goes to a terminal before the ring is authenticated is no command for it.
func TestNothingForTheTerminal(t *testing.T) {
	ring, _, p := two(t)
	forge(t, ring.Path(), func(r ringJSON) {
		r.slot(0)["label"] = "\x1b]0;owned\x07"
		r.slot(0)["blob"].(map[string]any)["file"] = "/k\x1b[2J"
	})
	again, err := keys.Load(t.Context(), ring.Path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = again.Unlock(t.Context(), p)
	for _, text := range []string{err.Error(), again.Summary(p)[0].Label, again.Summary(p)[0].Detail, again.Probe(t.Context(), p)[0].Reason} {
		if text == "" || strings.ContainsAny(text, "\x1b\x07") {
			t.Errorf("printed: %q", text)
		}
	}
	for _, name := range []string{"id", "provider"} {
		ring, _, _ := two(t)
		forge(t, ring.Path(), func(r ringJSON) { r.slot(0)[name] = "a\x1bb" })
		if _, err := keys.Load(t.Context(), ring.Path(), nil); !errors.Is(err, keys.ErrDamagedRing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
