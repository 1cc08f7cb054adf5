package plugin_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"layervault/persist"
	"layervault/plugin"
	"layervault/plugin/socket"
)

func TestParseDoors(t *testing.T) {
	for doors, want := range map[string][]string{
		"graph,volumes":                {plugin.DoorGraph, plugin.DoorVolumes},
		"volumes":                      {plugin.DoorVolumes},
		"snapshots":                    {plugin.DoorSnapshots},
		"snapshots, diff":              {plugin.DoorSnapshots, plugin.DoorDiff},
		"graph,volumes,snapshots,diff": {plugin.DoorGraph, plugin.DoorVolumes, plugin.DoorSnapshots, plugin.DoorDiff},
		"":                             nil,
		"graph":                        nil,
		"diff":                         nil,
		"volumes,diff":                 nil,
		"windows":                      nil,
		"volumes,":                     nil,
	} {
		open, err := plugin.ParseDoors(doors)
		if want == nil && err == nil {
			t.Errorf("%q: %v", doors, open)
		}
		if want != nil && (err != nil || !slices.Equal(open, want)) {
			t.Errorf("%q: %v, %v", doors, open, err)
		}
	}
}

func TestDoorSockets(t *testing.T) {
	dir := t.TempDir()
	d := plugin.Doors{
		Open:   []string{plugin.DoorVolumes, plugin.DoorSnapshots, plugin.DoorDiff},
		Socket: filepath.Join(dir, "docker.sock"), Snapshots: filepath.Join(dir, "snapshot.sock"), Diff: filepath.Join(dir, "diff.sock"),
	}
	env := func(string) string { return "" }
	l, snaps, err := d.Listen(t.Context(), env, persist.Layout{})
	if err != nil || l == nil || snaps == nil || len(snaps.Listeners) != 2 {
		t.Fatalf("%v, %+v, %v", l, snaps, err)
	}
	// All or none: the second process gets no socket, and leaves the first its own.
	again := d
	again.Socket = filepath.Join(dir, "other.sock")
	if _, _, err := again.Listen(t.Context(), env, persist.Layout{}); !errors.Is(err, socket.ErrInUse) {
		t.Errorf("a second service: %v", err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) != 3 {
		t.Errorf("sockets: %v, %v", found, err)
	}
	for _, one := range append(snaps.Listeners, plugin.Listener{Listener: l}) {
		if err := one.Close(); err != nil {
			t.Error(err)
		}
	}
}
