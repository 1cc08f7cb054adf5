package main

import (
	"github.com/spf13/pflag"

	"layervault/plugin"
)

// doorSettings is what a person chooses of the doors.
type doorSettings struct {
	plugin.Doors // Open is filled in by check
	doors        string
	onlyVolumes  bool
}

func doorSettingsOf(env func(string) string) doorSettings {
	return doorSettings{
		doors: envOr(env, "doors", plugin.DoorGraph+","+plugin.DoorVolumes),
		Doors: plugin.Doors{Containerd: envOr(env, "containerd", plugin.DefaultContainerd)},
	}
}

// register adds the flags.
func (d *doorSettings) register(f *pflag.FlagSet) {
	f.StringVar(&d.doors, "doors", d.doors, "doors to open, of graph, volumes, snapshots and diff (env doors)")
	f.BoolVar(&d.onlyVolumes, "volumes", false, "serve volumes only")
	f.StringVar(&d.Socket, "socket", plugin.DefaultSocket, "socket of the doors graph and volumes")
	d.containerdSockets(f)
	f.StringVar(&d.Containerd, "containerd", d.Containerd, "containerd's socket, where the door diff reads blobs (env containerd)")
}

// containerdSockets adds the flags of the sockets for containerd.
func (d *doorSettings) containerdSockets(f *pflag.FlagSet) {
	f.StringVar(&d.Snapshots, "snapshot-socket", plugin.DefaultSnapshotSocket, "socket of the door snapshots")
	f.StringVar(&d.Diff, "diff-socket", plugin.DefaultDiffSocket, "socket of the door diff")
}

// check reads the list of doors.
func (d *doorSettings) check() (err error) {
	if d.onlyVolumes {
		d.doors = plugin.DoorVolumes
	}
	if d.Open, err = plugin.ParseDoors(d.doors); err != nil {
		return usagef("setting doors=%q: %w", d.doors, err)
	}
	return nil
}
