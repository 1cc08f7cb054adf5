package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
)

// The names of layervault's plugins in containerd, and so of the snapshotter that docker, ctr
// and Kubernetes are told.
const (
	SnapshotterName = "layervault"
	DifferName      = "layervault-diff"
)

// The plugins of containerd that are configured, and what they have by default. Their names
// have been the same since format 2.
const (
	diffService     = "io.containerd.service.v1.diff-service"
	transferService = "io.containerd.transfer.v1.local"
	walking         = "walking"
	overlayfs       = "overlayfs"
)

var (
	// ErrNotConfigurable: dockerd makes the configuration of its own containerd, without proxy
	// plugins.
	ErrNotConfigurable = errors.New("containerd of dockerd has no proxy plugins")
	// ErrOverridden: another file of the configuration sets what was to be set.
	ErrOverridden = errors.New("setting is overridden by an imported file")
)

// Wanted is what is to be configured.
type Wanted struct {
	Snapshots string // socket of the door snapshots
	Diffs     string // socket of the door diff, "" to leave unpacking to containerd
	Exports   string // the disk that kubelet is to watch: the folder of the vault
	CRI       bool   // Kubernetes uses it by default
}

// Plan is a file as it is to be.
type Plan struct {
	File  string   `json:"file"`
	Lines string   `json:"lines,omitempty"` // what is new, by itself; "" if nothing is
	Notes []string `json:"notes,omitempty"` // for a person
	// Restart is the command after which it counts.
	Restart string `json:"restart"`

	old, text []byte // nil for a file that does not exist, or that only a person can edit
	program   string // reads the new file before it counts; "" for none
	wanted    *Wanted
}

// Writable says whether Write can make the file, and has something to do.
func (p *Plan) Writable() bool { return p.text != nil }

// Plan says how the configuration of a containerd is to be. Errors: ErrNotConfigurable, ErrTOML,
// ErrEdit, ErrOverridden; after the latter two the plan has the lines for a person.
func (h Host) Plan(c Containerd, w Wanted) (*Plan, error) {
	switch c.Kind {
	case External:
		return h.planFile(c, w)
	case K3s:
		return h.planTemplate(c, w)
	}
	return nil, fmt.Errorf("%w (%s, process %d)", ErrNotConfigurable, c.Kind, c.PID)
}

func (h Host) planFile(c Containerd, w Wanted) (*Plan, error) {
	p := &Plan{File: c.Config, Restart: "systemctl restart containerd", program: c.program}
	data, err := readFile(h.At(c.Config))
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		data, err = freshFile(c.Version), nil
	}
	if err != nil {
		return nil, err
	}
	d, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Config, err)
	}
	settings, notes := settingsFor(d.tree, c.Version, w)
	p.Notes = notes
	if len(settings) == 0 {
		return p, nil
	}
	alone, err := (&document{tree: map[string]any{}, tables: []table{{}}}).edit(settings)
	if err != nil {
		return nil, err
	}
	p.Lines = strings.TrimLeft(string(alone.text), "\n")
	edited, err := d.edit(settings)
	if err != nil {
		return p, fmt.Errorf("%s: %w", c.Config, err)
	}
	if err := h.effective(c.Config, edited.text, w); err != nil {
		return p, err
	}
	if criDisabled(d.tree) {
		w.CRI = false // containerd does not read the settings of what is disabled
	}
	p.text, p.wanted = edited.text, &w
	if !fresh {
		p.old = data
	}
	return p, nil
}

// freshFile is the start of a configuration where there was none.
func freshFile(version string) []byte {
	switch {
	case AtLeast(version, 2, 2, 0): // which then read these by itself
		return []byte("version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n")
	case AtLeast(version, 2, 0, 0):
		return []byte("version = 3\n")
	}
	return []byte("version = 2\n")
}

// effective is ErrOverridden if a configuration with this main file lacks what is wanted.
func (h Host) effective(path string, main []byte, w Wanted) error {
	s, err := h.read(path, main)
	if err != nil {
		return err
	}
	if lacks := s.Lacks(w); len(lacks) > 0 {
		return fmt.Errorf("%w: %s, among %s", ErrOverridden, strings.Join(lacks, ", "), strings.Join(s.Files[1:], ", "))
	}
	return nil
}

// Lacks lists what settings lack of what is wanted.
func (s *Settings) Lacks(w Wanted) (lacks []string) {
	if p := s.Proxies[SnapshotterName]; p.Type != "snapshot" || p.Address != w.Snapshots {
		lacks = append(lacks, "proxy_plugins."+SnapshotterName)
	}
	if w.Diffs != "" {
		if p := s.Proxies[DifferName]; p.Type != "diff" || p.Address != w.Diffs {
			lacks = append(lacks, "proxy_plugins."+DifferName)
		}
		if !s.DifferFirst() {
			lacks = append(lacks, "default of the diff-service")
		}
	}
	if w.CRI && s.CRI != SnapshotterName {
		lacks = append(lacks, "snapshotter of the CRI plugin")
	}
	return lacks
}

// DifferFirst says whether layervault's differ is asked before the one that unpacks into
// directories.
func (s *Settings) DifferFirst() bool {
	ours := slices.Index(s.Differs, DifferName)
	theirs := slices.Index(s.Differs, walking)
	return ours >= 0 && (theirs < 0 || ours < theirs)
}

// settingsFor are the settings that a main file still needs, and what a person should know.
func settingsFor(tree map[string]any, version string, w Wanted) (settings []setting, notes []string) {
	set := func(value any, path ...string) {
		settings = append(settings, setting{path: path, value: value})
	}
	proxy := func(name, kind, address string) {
		for _, field := range []struct{ name, value string }{{"type", kind}, {"address", address}} {
			if text(tree, "proxy_plugins", name, field.name) != field.value {
				set(field.value, "proxy_plugins", name, field.name)
			}
		}
	}
	proxy(SnapshotterName, "snapshot", w.Snapshots)
	if exported(version) && w.Exports != "" && text(tree, "proxy_plugins", SnapshotterName, "exports", "root") != w.Exports {
		set(w.Exports, "proxy_plugins", SnapshotterName, "exports", "root")
	}
	format := formatOf(tree)
	if w.Diffs != "" {
		proxy(DifferName, "diff", w.Diffs)
		service := diffService
		if format == 1 {
			service = "diff-service"
		}
		s := Settings{Differs: texts(tree, "plugins", service, "default")}
		if s.Differs == nil {
			s.Differs = []string{walking}
		}
		if !s.DifferFirst() {
			set(differsWith(s.Differs), "plugins", service, "default")
		}
	}
	unpacks, said := unpackFor(tree, format, w)
	settings, notes = append(settings, unpacks...), append(notes, said...)
	if path := criPath(format); w.CRI && text(tree, path...) != SnapshotterName {
		set(SnapshotterName, path...)
	}
	if w.CRI && criDisabled(tree) {
		notes = append(notes, "the file disables the CRI plugin (disabled_plugins): Kubernetes does not work with it")
	}
	return settings, notes
}

// criDisabled says whether a file disables the CRI plugin, as docker's and others' packages do.
func criDisabled(tree map[string]any) bool {
	return slices.ContainsFunc(texts(tree, "disabled_plugins"), func(p string) bool { return p == "cri" || p == "io.containerd.grpc.v1.cri" })
}

// exported says whether a containerd knows the exports of a proxy plugin. Later ones than those
// that do not are the rule.
func exported(version string) bool {
	return AtLeast(version, 1, 7, 35) || version == ""
}

// differsWith puts layervault's differ first: it takes what is its own, and passes on the rest.
func differsWith(list []string) (all []any) {
	all = append(all, DifferName)
	for _, name := range list {
		if name != DifferName {
			all = append(all, name)
		}
	}
	return all
}

// criPath is where the snapshotter of Kubernetes is set.
func criPath(format int) []string {
	switch format {
	case 1:
		return []string{"plugins", "cri", "containerd", "snapshotter"}
	case 2:
		return []string{"plugins", "io.containerd.grpc.v1.cri", "containerd", "snapshotter"}
	}
	return []string{"plugins", "io.containerd.cri.v1.images", "snapshotter"}
}

// unpackFor lets the transfer service unpack for the snapshotter. An entry names its differ:
// with two differs and none named, containerd 1.7 takes either. A list of one's own replaces the
// default one, so it begins with that.
func unpackFor(tree map[string]any, format int, w Wanted) (settings []setting, notes []string) {
	if format == 1 {
		return nil, []string{"the file has format 1, which has no place for the transfer service (ctr image pull --local=false): containerd config migrate, then run this again"}
	}
	path := []string{"plugins", transferService, "unpack_config"}
	platform := platforms.Format(platforms.DefaultSpec())
	entry := func(snapshotter, differ string) {
		settings = append(settings, setting{path: path, more: true, value: map[string]any{"platform": platform, "snapshotter": snapshotter, "differ": differ}})
	}
	differ := DifferName
	if w.Diffs == "" {
		differ = walking
	}
	if lookup(tree, path...) == nil {
		entry(overlayfs, walking)
	}
	have := false
	for _, one := range tablesAt(tree, path...) {
		have = have || text(one, "snapshotter") == SnapshotterName
		if text(one, "differ") == "" && w.Diffs != "" {
			notes = append(notes, fmt.Sprintf("the entry of unpack_config for %s names no differ: add differ = %q to it, or containerd may take layervault's", text(one, "snapshotter"), walking))
		}
	}
	if !have {
		entry(SnapshotterName, differ)
	}
	return settings, notes
}

// planTemplate is for k3s, which makes the configuration from a template at each start. One that
// exists is a program, and only a person can edit it.
func (h Host) planTemplate(c Containerd, w Wanted) (*Plan, error) {
	s, err := h.Read(c.Config)
	if err != nil {
		return nil, err
	}
	name, tree := "config.toml.tmpl", map[string]any{"version": int64(2)}
	if s.Format >= 3 {
		name, tree = "config-v3.toml.tmpl", map[string]any{"version": int64(3)}
	}
	p := &Plan{File: filepath.Join(filepath.Dir(c.Config), name), Restart: "systemctl restart k3s (or k3s-agent, rke2-server, rke2-agent)"}
	w.CRI = false // the template of k3s sets it itself
	p.Notes = append(p.Notes, `set "snapshotter: `+SnapshotterName+`" in /etc/rancher/k3s/config.yaml (rke2: /etc/rancher/rke2/config.yaml)`)
	if len(s.Lacks(w)) == 0 {
		return p, nil
	}
	settings, notes := settingsFor(tree, c.Version, w)
	p.Notes = append(p.Notes, notes...)
	alone, err := (&document{tree: map[string]any{}, tables: []table{{}}}).edit(settings)
	if err != nil {
		return nil, err
	}
	p.Lines = strings.TrimLeft(string(alone.text), "\n")
	switch _, err := readFile(h.At(p.File)); {
	case errors.Is(err, fs.ErrNotExist):
		p.text = []byte("{{ template \"base\" . }}\n\n" + p.Lines)
		return p, nil
	case err != nil:
		return p, err
	}
	return p, fmt.Errorf("%s: %w: it is a template", p.File, ErrEdit)
}
