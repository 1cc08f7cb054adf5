package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// PlanDaemon says how daemon.json is to be, so that dockerd uses the containerd at a socket with
// layervault's snapshotter. The socket is named only where dockerd would not find it, and does not
// have it on its command line: it refuses a setting that comes twice. Time namespaces are switched
// off where runc has none. Errors: ErrJSON.
func (h Host) PlanDaemon(ctx context.Context, file, containerd string, dockerd *Dockerd) (*Plan, error) {
	p := &Plan{File: file, Restart: "systemctl restart docker"}
	data, err := readFile(h.At(file))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	d, err := parseDaemon(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	before, err := d.encode()
	if err != nil {
		return nil, err
	}
	runc, lacks := h.lacksTimeNamespaces(ctx)
	lacks = lacks && d.find("features").lacks("time-namespaces")
	named := containerd != defaultAddress && (dockerd == nil || !dockerd.ByFlag)
	alone := &daemonSettings{}
	for _, one := range []*daemonSettings{d, alone} {
		if other := one.text("storage-driver"); other != "" && other != SnapshotterName && one.remove("storage-opts") {
			p.Notes = append(p.Notes, "storage-opts were for "+other+" and are left out")
		}
		// Both: with old data of a graph driver dockerd would stay on that.
		err := errors.Join(one.set(true, "features", "containerd-snapshotter"), one.set(SnapshotterName, "storage-driver"))
		if named {
			err = errors.Join(err, one.set(containerd, "containerd"))
		}
		if lacks {
			err = errors.Join(err, one.set(false, "features", "time-namespaces"))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	text, err := d.encode()
	if err != nil || string(text) == string(before) {
		return p, err
	}
	lines, err := alone.encode()
	if err != nil {
		return nil, err
	}
	p.Lines, p.text, p.old = string(lines), text, data
	p.Notes = append(p.Notes, "docker run --storage-opt size= is ignored without a message: the service's setting size bounds a container's layer")
	if lacks {
		p.Notes = append(p.Notes, "Docker 29 gives each container a time namespace, which runc "+runc+" refuses: switched off; runc 1.2 has them")
	}
	return p, nil
}

// lacksTimeNamespaces is the version of the host's runc, and whether that is one without time
// namespaces: containers of Docker 29 do not start, with `namespace {"time" ""} does not exist`.
func (h Host) lacksTimeNamespaces(ctx context.Context) (version string, lacks bool) {
	program := h.installed("runc")
	if program == "" {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	version = versionOf(ctx, program)
	return version, AtLeast(version, 1, 0, 0) && !AtLeast(version, 1, 2, 0)
}

// lacks says whether an object has no such key.
func (m *member) lacks(name string) bool {
	if m == nil {
		return true
	}
	inner, err := parseDaemon(m.value)
	return err == nil && inner.find(name) == nil
}
