package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"layervault/persist"
	"layervault/plugin"
	"layervault/plugin/snapshot"
	"layervault/plugin/socket"
)

// The doors that serve can open.
const (
	doorGraph     = "graph"
	doorVolumes   = "volumes"
	doorSnapshots = "snapshots"
	doorDiff      = "diff"
)

const (
	// defaultSocket is where dockerd looks for plugins, and where a managed plugin
	// must put its socket.
	defaultSocket = "/run/docker/plugins/layervault.sock"

	// The sockets for containerd, and containerd's own. Only root may connect.
	defaultSnapshotSocket = "/run/layervault/snapshot.sock"
	defaultDiffSocket     = "/run/layervault/diff.sock"
	defaultContainerd     = "/run/containerd/containerd.sock"

	// snapshotMounts is where images are attached for containerd, and snapshotScratch is for the
	// service's own mounts: beside each other, as what lies below the second is private.
	snapshotMounts  = "/run/layervault/s"
	snapshotScratch = "/run/layervault/private"
)

// doorSettings is what a person chooses of the doors.
type doorSettings struct {
	doors       string
	onlyVolumes bool
	socket      string // of graph and volumes
	snapshots   string
	diff        string
	containerd  string

	// Filled by check.
	open []string
}

func doorSettingsOf(env func(string) string) doorSettings {
	return doorSettings{
		doors:      envOr(env, "doors", doorGraph+","+doorVolumes),
		containerd: envOr(env, "containerd", defaultContainerd),
	}
}

// register adds the flags.
func (d *doorSettings) register(f *pflag.FlagSet) {
	f.StringVar(&d.doors, "doors", d.doors, "doors to open, of graph, volumes, snapshots and diff (env doors)")
	f.BoolVar(&d.onlyVolumes, "volumes", false, "serve volumes only")
	f.StringVar(&d.socket, "socket", defaultSocket, "socket of the doors graph and volumes")
	d.containerdSockets(f)
	f.StringVar(&d.containerd, "containerd", d.containerd, "containerd's socket, where the door diff reads blobs (env containerd)")
}

// containerdSockets adds the flags of the sockets for containerd.
func (d *doorSettings) containerdSockets(f *pflag.FlagSet) {
	f.StringVar(&d.snapshots, "snapshot-socket", defaultSnapshotSocket, "socket of the door snapshots")
	f.StringVar(&d.diff, "diff-socket", defaultDiffSocket, "socket of the door diff")
}

// check reads the list of doors.
func (d *doorSettings) check() error {
	if d.onlyVolumes {
		d.doors = doorVolumes
	}
	for door := range strings.SplitSeq(d.doors, ",") {
		door = strings.TrimSpace(door)
		if !slices.Contains([]string{doorGraph, doorVolumes, doorSnapshots, doorDiff}, door) {
			return usagef("setting doors=%q: unknown door %q, it is of %s, %s, %s and %s", d.doors, door, doorGraph, doorVolumes, doorSnapshots, doorDiff)
		}
		d.open = append(d.open, door)
	}
	switch {
	case d.has(doorGraph) && !d.has(doorVolumes):
		return usagef("setting doors=%q: %s comes with %s, on one socket", d.doors, doorGraph, doorVolumes)
	case d.has(doorDiff) && !d.has(doorSnapshots):
		return usagef("setting doors=%q: %s serves the snapshots of %s", d.doors, doorDiff, doorSnapshots)
	}
	return nil
}

func (d *doorSettings) has(door string) bool { return slices.Contains(d.open, door) }

// listen makes the sockets, or takes them from systemd: docker's, nil for none, and in cfg those
// for containerd.
func (d *doorSettings) listen(ctx context.Context, env func(string) string, l persist.Layout, s settings, cfg *plugin.Config) (docker net.Listener, err error) {
	inherited, err := socket.Inherit(env)
	if err != nil {
		return nil, err
	}
	var made []net.Listener
	defer func() {
		err = errors.Join(err, inherited.Close())
		if err != nil {
			for _, l := range made {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	listen := func(door, path string) (net.Listener, error) {
		if !d.has(door) {
			return nil, nil
		}
		l, err := inherited.Listen(ctx, path)
		if err == nil {
			made = append(made, l)
		}
		return l, err
	}
	if docker, err = listen(doorVolumes, d.socket); err != nil {
		return nil, err
	}
	snapshots, err := listen(doorSnapshots, d.snapshots)
	if err != nil || snapshots == nil {
		return docker, err
	}
	cfg.Containerd = &plugin.Containerd{
		Listeners: []plugin.Listener{{Listener: snapshots, Services: snapshot.Snapshots}},
		Socket:    d.containerd, Layout: l, Mounts: snapshotMounts, Scratch: snapshotScratch, DefaultSize: s.sizeBytes,
	}
	diff, err := listen(doorDiff, d.diff)
	if diff != nil {
		cfg.Containerd.Listeners = append(cfg.Containerd.Listeners, plugin.Listener{Listener: diff, Services: snapshot.Diffs})
	}
	return docker, err
}
