package convert_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/convert"
	"layervault/crypt"
	"layervault/persist"
	"layervault/volume"
	"layervault/volume/volumetest"
)

// openStore opens the volumes of a device, on images without encryption.
func openStore(t *testing.T, d *device) (*volume.Store, convert.Places) {
	t.Helper()
	dir := filepath.Dir(d.root)
	layout := persist.Layout{Root: d.root}
	must(t, os.WriteFile(layout.KeyRing(persist.Vault), []byte("{}"), 0o600))
	keys := func(_ context.Context, tier persist.Tier) (crypt.KeySource, error) {
		if tier == persist.Clear {
			return nil, errors.New("the clear tier has no key")
		}
		return volumetest.Keys{Other: string(tier)}, nil
	}
	store, err := volume.Open(t.Context(), volume.Config{
		Layout: layout, Mounts: filepath.Join(dir, "mounts"), Scratch: filepath.Join(dir, "scratch"),
		Keys: keys, Devices: volumetest.Devices(keys), BootID: "boot-1", Log: quiet,
	})
	must(t, err)
	t.Cleanup(func() {
		volumetest.UnmountBelow(t, dir)
		must(t, store.Close())
	})
	return store, convert.Split{Volumes: convert.VolumeStore{Store: store, Layout: layout, Mounts: filepath.Join(dir, "fill")}, Areas: d.places()}
}

// The content of old volumes gets into volumes of package volume, images and folders.
func TestVolumeStore(t *testing.T) {
	d := newDevice(t)
	vm, ct := uuidOf("vm"), uuidOf("container")
	d.write("checkpoint/lastconfig", response(
		appMsg(vm, 0, driveMsg(shaOf("a"), 3), driveMsg(shaOf("b"), 1), refMsg(uuidOf("one"), 2), refMsg(uuidOf("two"), 0)),
		appMsg(ct, 0, driveMsg(shaOf("c"), 8), refMsg(uuidOf("three"), 1)),
		volumeMsg(uuidOf("one"), 0), volumeMsg(uuidOf("two"), 1)))
	sources := map[string]string{ // to the ID of the volume
		"img/" + shaOf("a") + "-" + vm + ".qcow2":          uuidOf("one") + "#2",
		"img/" + shaOf("b") + "-" + vm + ".raw":            uuidOf("two") + "#0",
		"runx/pods/prepared/" + shaOf("c") + "-" + ct + "": uuidOf("three") + "#1",
	}
	for source, id := range sources {
		d.want[source] = id
		if strings.HasPrefix(source, "runx") {
			d.tree(source, 20)
			must(t, os.Remove(filepath.Join(d.path(source), "rootfs/sparse"))) // a volume of 5 GiB is not needed here
		} else {
			d.write(source, d.random(300_000))
		}
	}
	before := d.before()
	store, places := openStore(t, d)
	// An interrupted run leaves a volume, which the next one uses.
	errCut := errors.New("the power went")
	_, err := d.run(func(c *convert.Config) {
		c.Places = places
		c.Checkpoint = func(step string) error {
			if step == "finish" {
				return errCut
			}
			return nil
		}
	})
	if !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	for n := range 2 {
		if n > 0 { // a run that was killed behind its last step has its volume mounted still
			must(t, store.MountAt(t.Context(), "eve-"+uuidOf("one"), filepath.Join(filepath.Dir(d.root), "fill", "eve-"+uuidOf("one"))))
			must(t, os.MkdirAll(filepath.Join(filepath.Dir(d.root), "fill", "eve-"+uuidOf("gone")), 0o700))
		}
		r, err := d.run(func(c *convert.Config) { c.Places, c.Commit = places, true })
		must(t, err)
		if r.Count(convert.Moved) != len(sources) {
			t.Fatalf("%s", r)
		}
		if left, err := os.ReadDir(filepath.Join(filepath.Dir(d.root), "fill")); err != nil || len(left) > 0 {
			t.Errorf("left where volumes are filled: %v, %v", left, err)
		}
	}
	for source, id := range sources {
		uuid, _, _ := strings.Cut(id, "#")
		v, err := store.Get(t.Context(), "eve-"+uuid)
		must(t, err)
		clear := uuid == uuidOf("two")
		if v.ID().String() != id || v.IsImage() == clear {
			t.Errorf("%s: volume %s, %+v", source, v.ID(), v.Options)
		}
		at := filepath.Join(filepath.Dir(d.root), "look")
		must(t, store.MountAt(t.Context(), v.Name, at))
		entries, err := filepath.Glob(filepath.Join(at, id+".*"))
		must(t, err)
		if len(entries) != 1 {
			t.Fatalf("%s: %q", source, entries)
		}
		now := snapshot(t, entries[0])
		if strings.HasPrefix(source, "runx") {
			delete(now, "snapshotid.txt")
		}
		same(t, source, before[source], now)
		must(t, store.UnmountHost(t.Context(), v.Name, at))
	}
}

// A volume of this UUID, or EVE's own file, is in the way.
func TestVolumeStoreTaken(t *testing.T) {
	for name, make := range map[string]func(*device, *volume.Store){
		"volume": func(d *device, s *volume.Store) {
			_, err := s.Create(t.Context(), "other", volume.Request{UUID: uuidOf("volume"), Generation: 7,
				Options: volume.Options{Tier: persist.Vault, Persistence: volume.Permanent, Size: 32 << 20}})
			must(t, err)
		},
		"file of EVE's": func(d *device, _ *volume.Store) {
			d.write("vault/volumes/"+strings.ToUpper(uuidOf("volume"))+"#2.qcow2", []byte("EVE's"))
		},
	} {
		d, source, _ := small(t, 100)
		store, places := openStore(t, d)
		make(d, store)
		r, err := d.run(func(c *convert.Config) { c.Places, c.Commit = places, true })
		must(t, err)
		if l := line(t, r, source); l.Status != convert.Stays || !strings.Contains(l.Reason, "destination exists") {
			t.Errorf("%s: %+v", name, l)
		}
		exists(t, d.path(source), true)
	}
}
