package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"layervault/persist"
	"layervault/plugin/snapshot"
	"layervault/plugin/socket"
)

// The doors that a plugin can open.
const (
	DoorGraph     = "graph"
	DoorVolumes   = "volumes"
	DoorSnapshots = "snapshots"
	DoorDiff      = "diff"
)

// DefaultSocket is where dockerd looks for plugins, and where a managed plugin must put its
// socket.
const DefaultSocket = "/run/docker/plugins/layervault.sock"

// The sockets for containerd, and containerd's own. Only root may connect.
const (
	DefaultSnapshotSocket = "/run/layervault/snapshot.sock"
	DefaultDiffSocket     = "/run/layervault/diff.sock"
	DefaultContainerd     = "/run/containerd/containerd.sock"
)

const (
	// snapshotMounts is where images are attached for containerd, and snapshotScratch is for the
	// plugin's own mounts: beside each other, as what lies below the second is private.
	snapshotMounts  = "/run/layervault/s"
	snapshotScratch = "/run/layervault/private"
)

// Doors are the doors to open, and their sockets.
type Doors struct {
	Open       []string
	Socket     string // of graph and volumes
	Snapshots  string
	Diff       string
	Containerd string // containerd's own
}

// ParseDoors reads a list of doors that go together.
func ParseDoors(list string) (open []string, err error) {
	for door := range strings.SplitSeq(list, ",") {
		door = strings.TrimSpace(door)
		if !slices.Contains([]string{DoorGraph, DoorVolumes, DoorSnapshots, DoorDiff}, door) {
			return nil, fmt.Errorf("unknown door %q, it is of %s, %s, %s and %s", door, DoorGraph, DoorVolumes, DoorSnapshots, DoorDiff)
		}
		open = append(open, door)
	}
	switch d := (Doors{Open: open}); {
	case d.Has(DoorGraph) && !d.Has(DoorVolumes):
		return nil, fmt.Errorf("%s comes with %s, on one socket", DoorGraph, DoorVolumes)
	case d.Has(DoorDiff) && !d.Has(DoorSnapshots):
		return nil, fmt.Errorf("%s serves the snapshots of %s", DoorDiff, DoorSnapshots)
	}
	return open, nil
}

// Has reports whether a door is to open.
func (d Doors) Has(door string) bool { return slices.Contains(d.Open, door) }

// Service is what serves containerd, without sockets of its own.
func (d Doors) Service(l persist.Layout) *Containerd {
	return &Containerd{Socket: d.Containerd, Layout: l, Mounts: snapshotMounts, Scratch: snapshotScratch}
}

// Listen makes the sockets, all or none, or takes them from systemd: docker's, nil for none, and
// containerd's, nil for none, with all that is fixed; DefaultSize is for the caller to set.
func (d Doors) Listen(ctx context.Context, env func(string) string, l persist.Layout) (docker net.Listener, snaps *Containerd, err error) {
	inherited, err := socket.Inherit(env)
	if err != nil {
		return nil, nil, err
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
		if !d.Has(door) {
			return nil, nil
		}
		l, err := inherited.Listen(ctx, path)
		if err == nil {
			made = append(made, l)
		}
		return l, err
	}
	if docker, err = listen(DoorVolumes, d.Socket); err != nil {
		return nil, nil, err
	}
	snapshots, err := listen(DoorSnapshots, d.Snapshots)
	if err != nil || snapshots == nil {
		return docker, nil, err
	}
	snaps = d.Service(l)
	snaps.Listeners = []Listener{{Listener: snapshots, Services: snapshot.Snapshots}}
	diff, err := listen(DoorDiff, d.Diff)
	if diff != nil {
		snaps.Listeners = append(snaps.Listeners, Listener{Listener: diff, Services: snapshot.Diffs})
	}
	return docker, snaps, err
}
