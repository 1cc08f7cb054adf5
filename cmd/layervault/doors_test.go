package main

import (
	"path/filepath"
	"slices"
	"testing"

	"layervault/persist"
	"layervault/plugin"
)

func TestDoorSettings(t *testing.T) {
	for doors, want := range map[string][]string{
		"":                             {doorGraph, doorVolumes},
		"volumes":                      {doorVolumes},
		"snapshots":                    {doorSnapshots},
		"snapshots, diff":              {doorSnapshots, doorDiff},
		"graph,volumes,snapshots,diff": {doorGraph, doorVolumes, doorSnapshots, doorDiff},
		"graph":                        nil,
		"diff":                         nil,
		"volumes,diff":                 nil,
		"windows":                      nil,
		"volumes,":                     nil,
	} {
		d := doorSettingsOf(func(name string) string { return map[string]string{"doors": doors}[name] })
		err := d.check()
		if want == nil && !isUsage(err) {
			t.Errorf("%q: %v", doors, err)
		}
		if want != nil && (err != nil || !slices.Equal(d.open, want)) {
			t.Errorf("%q: %v, %v", doors, d.open, err)
		}
	}
}

func TestDoorSockets(t *testing.T) {
	dir := t.TempDir()
	d := doorSettings{
		doors: "volumes,snapshots,diff", socket: filepath.Join(dir, "docker.sock"),
		snapshots: filepath.Join(dir, "snapshot.sock"), diff: filepath.Join(dir, "diff.sock"),
	}
	if err := d.check(); err != nil {
		t.Fatal(err)
	}
	env := func(string) string { return "" }
	var cfg plugin.Config
	l, err := d.listen(t.Context(), env, persist.Layout{}, settings{}, &cfg)
	if err != nil || l == nil || cfg.Containerd == nil || len(cfg.Containerd.Listeners) != 2 {
		t.Fatalf("%v, %+v, %v", l, cfg.Containerd, err)
	}
	// All or none: the second process gets no socket, and leaves the first its own.
	again := d
	again.socket = filepath.Join(dir, "other.sock")
	if _, err := again.listen(t.Context(), env, persist.Layout{}, settings{}, &cfg); exitStatus(err) != statusInUse {
		t.Errorf("a second service: %v", err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) != 3 {
		t.Errorf("sockets: %v, %v", found, err)
	}
	for _, one := range append(cfg.Containerd.Listeners, plugin.Listener{Listener: l}) {
		if err := one.Close(); err != nil {
			t.Error(err)
		}
	}
}
