package doctor

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"layervault/engine"
	"layervault/persist"
	"layervault/vault"
)

// containerdTimeout bounds the questions to one containerd.
const containerdTimeout = 10 * time.Second

// seen is what can be found out about one containerd.
type seen struct {
	engine.Containerd
	wanted   engine.Wanted
	settings *engine.Settings
	err      error           // why there are no settings
	plugins  []engine.Plugin // of the running one; nil where it was not asked
	// offered: the door is open, so somebody wants the snapshotter.
	offered bool
	// silent are the sockets of the configuration on which nobody answers.
	silent []string
}

// checkContainerd looks at every containerd of the host, and at the way to it.
func (h Host) checkContainerd(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, containerdTimeout)
	defer cancel()
	found := h.Engines.Find(ctx)
	if len(found.Containerds) == 0 {
		return []Finding{ok("none on this host: only the snapshotter needs one")}
	}
	var out []Finding
	for _, c := range found.Containerds {
		out = append(out, judgeContainerd(h.look(ctx, c))...)
	}
	rows, err := vault.ReadLayers(ctx, persist.Layout{Root: h.Persist})
	if err != nil && len(rows) == 0 {
		return out // checkPersist says it
	}
	return append(out, judgeUnpack(rows)...)
}

// look finds out about one containerd.
func (h Host) look(ctx context.Context, c engine.Containerd) seen {
	s := seen{Containerd: c, wanted: h.Snapshotter}
	_, err := os.Stat(h.Snapshotter.Snapshots)
	s.offered = err == nil
	if !c.Kind.Configurable() {
		return s
	}
	if s.settings, s.err = h.Engines.Read(c.Config); s.err != nil {
		return s
	}
	for _, name := range []string{engine.SnapshotterName, engine.DifferName} {
		if p, is := s.settings.Proxies[name]; is && !answers(ctx, p.Address) {
			s.silent = append(s.silent, p.Address)
		}
	}
	if c.PID == 0 {
		return s
	}
	if client, err := engine.Dial(c.Socket); err == nil {
		s.plugins, _ = client.Plugins(ctx) // nil where it does not answer
		_ = client.Close()
	}
	return s
}

// answers says whether somebody accepts connections at a socket.
func answers(ctx context.Context, socket string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// judgeContainerd says what one containerd is worth to the snapshotter. Nothing is wrong with one
// that has no part in it.
func judgeContainerd(s seen) []Finding {
	name := strings.TrimSpace(string(s.Kind) + " " + s.Version)
	switch {
	case !s.Kind.Configurable() && s.offered:
		return []Finding{warn("run containerd by itself: apt-get install containerd; then: layervault containerd config --write --docker",
			"%s: it belongs to dockerd, which leaves out proxy plugins; layervault's snapshotter cannot be used with it", name)}
	case !s.Kind.Configurable():
		return []Finding{ok("%s: belongs to dockerd; layervault's snapshotter would need one that runs by itself", name)}
	case s.err != nil:
		return []Finding{warn("correct the file", "%s: %v", name, s.err)}
	}
	_, configured := s.settings.Proxies[engine.SnapshotterName]
	if !configured && !s.offered {
		return []Finding{ok("%s: without layervault's snapshotter", name)}
	}
	if lacks := s.settings.Lacks(s.wanted); len(lacks) > 0 {
		return []Finding{warn("layervault containerd config --write && systemctl restart containerd",
			"%s: %s lacks %s", name, s.Config, strings.Join(lacks, ", "))}
	}
	out := []Finding{ok("%s: snapshotter and differ configured in %s", name, s.Config)}
	for _, socket := range s.silent {
		out = append(out, lack("doors=snapshots,diff in /etc/default/layervault; systemctl enable --now layervault.socket", "nobody answers on %s", socket))
	}
	return append(append(out, judgePlugins(s)...), judgeExports(s)...)
}

// judgePlugins compares what runs with what is configured.
func judgePlugins(s seen) (out []Finding) {
	if s.PID == 0 {
		return []Finding{warn("systemctl start containerd", "containerd does not run")}
	}
	if s.plugins == nil {
		return []Finding{warn("systemctl status containerd", "containerd does not answer on %s", s.Socket)}
	}
	for _, want := range []struct{ kind, id string }{{engine.TypeSnapshotter, engine.SnapshotterName}, {engine.TypeDiffer, engine.DifferName}} {
		n := slices.IndexFunc(s.plugins, func(p engine.Plugin) bool { return p.Type == want.kind && p.ID == want.id })
		switch {
		case n < 0:
			out = append(out, warn("systemctl restart containerd", "the running containerd has no plugin %s: it was started before it was configured", want.id))
		case s.plugins[n].Error != "":
			out = append(out, lack("systemctl restart containerd", "containerd could not load the plugin %s: %s", want.id, s.plugins[n].Error))
		}
	}
	return out
}

// judgeExports looks for what kubelet needs to watch the right disk.
func judgeExports(s seen) []Finding {
	if s.settings.CRI != engine.SnapshotterName || s.settings.Proxies[engine.SnapshotterName].Exports == s.wanted.Exports {
		return nil
	}
	return []Finding{warn("layervault containerd config --cri --write (containerd 1.7.35 or newer)",
		"exports.root of the snapshotter is not %s: kubelet finds no image file system, and does not remove old images", s.wanted.Exports)}
}

// judgeUnpack looks at the layer of an image that was unpacked last: the differ makes sealed
// images, containerd's own way leaves writable ones.
func judgeUnpack(rows []vault.LayerRow) []Finding {
	var last vault.LayerRow
	for _, row := range rows {
		if row.State == "committed" && strings.Contains(row.Name, "/sha256:") && row.Created.After(last.Created) {
			last = row
		}
	}
	switch {
	case last.Layer == "":
		return nil
	case last.Kind == "sealed":
		return []Finding{ok("the last image (layer %s, %s) was unpacked by layervault's differ", last.Layer, when(last))}
	}
	return []Finding{warn("layervault containerd config --write && systemctl restart containerd, then pull the image again",
		"the last image (layer %s, %s) was unpacked without layervault's differ: slower, and its layers are not sealed", last.Layer, when(last))}
}

func when(row vault.LayerRow) string {
	return row.Created.UTC().Format(time.DateTime)
}
