package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var wanted = Wanted{Snapshots: "/run/l/snapshot.sock", Diffs: "/run/l/diff.sock", Exports: "/persist/vault"}

const proxyLines = `[proxy_plugins.layervault]
  type = "snapshot"
  address = "/run/l/snapshot.sock"
`

// The file of docker's own package of containerd, of Debian's, and of containerd 2.
var configs = map[string]struct {
	version, text string
	lines         []string // among those that are new
	lacks         []string
	note          string
}{
	"none, 1.7": {version: "1.7.24~ds1", lines: []string{proxyLines, "default = [\"layervault-diff\", \"walking\"]", "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]"}, lacks: []string{"exports", "cri"}},
	"none, 2":   {version: "2.4.2", lines: []string{proxyLines, "[proxy_plugins.layervault.exports]\n  root = \"/persist/vault\""}},
	"docker's":  {version: "1.7.35", text: "# comment\ndisabled_plugins = [\"cri\"]\n\n#[grpc]\n", lines: []string{proxyLines, "[plugins.diff-service]\n  default"}, lacks: []string{"transfer"}, note: "containerd config migrate"},
	"debian's":  {version: "1.7.24~ds1", text: "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n", lines: []string{proxyLines}},
	"half done": {version: "2.1.0", text: "version = 3\n" + proxyLines + "[plugins.'" + diffService + "']\ndefault = ['erofs', 'walking']\n[[plugins.'" + transferService + "'.unpack_config]]\nsnapshotter = 'erofs'\n",
		lines: []string{"default = [\"layervault-diff\", \"erofs\", \"walking\"]"}, lacks: []string{"type = \"snapshot\"", "overlayfs"}, note: "unpack_config for erofs names no differ"},
}

func TestPlan(t *testing.T) {
	for name, tc := range configs {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"/usr/bin/containerd": program}
			if tc.text != "" {
				files[defaultConfig] = tc.text
			}
			h := host(t, nil, files)
			c := Containerd{Kind: External, Config: defaultConfig, Version: tc.version, program: h.At("/usr/bin/containerd")}
			p, err := h.Plan(c, wanted)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.lines {
				if !strings.Contains(p.Lines, want) {
					t.Errorf("no %q in\n%s", want, p.Lines)
				}
			}
			for _, not := range tc.lacks {
				if strings.Contains(p.Lines, not) {
					t.Errorf("%q is in\n%s", not, p.Lines)
				}
			}
			if !strings.Contains(strings.Join(p.Notes, "\n"), tc.note) {
				t.Errorf("notes are %q", p.Notes)
			}
			kept, err := h.Write(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			checkKept(t, kept, tc.text)
			// What is there again needs nothing.
			again, err := h.Plan(c, wanted)
			if err != nil || again.Lines != "" || again.Writable() {
				t.Errorf("a second time: %v, %q", err, again.Lines)
			}
			s, err := h.Read(defaultConfig)
			if err != nil || len(s.Lacks(wanted)) > 0 {
				t.Errorf("the file lacks %q: %v", s.Lacks(wanted), err)
			}
			left, _ := filepath.Glob(h.At("/etc/containerd/.tmp-*"))
			if len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func checkKept(t *testing.T, kept, want string) {
	t.Helper()
	if (kept != "") != (want != "") {
		t.Fatalf("kept as %q", kept)
	}
	if kept == "" {
		return
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != want {
		t.Errorf("kept is %q: %v", data, err)
	}
}

func TestPlanCRI(t *testing.T) {
	w := wanted
	w.CRI = true
	for format, want := range map[string]string{
		"":              "[plugins.cri.containerd]\n  snapshotter = \"layervault\"",
		"version = 2\n": "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter",
		"version = 3\n": "[plugins.\"io.containerd.cri.v1.images\"]\n  snapshotter",
		"version = 4\n": "[plugins.\"io.containerd.cri.v1.images\"]\n  snapshotter",
	} {
		h := host(t, nil, map[string]string{defaultConfig: format + "disabled_plugins = [\"cri\"]\n"})
		p, err := h.Plan(Containerd{Kind: External, Config: defaultConfig}, w)
		if err != nil || !strings.Contains(p.Lines, want) || !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "disables the CRI") }) {
			t.Errorf("%q: %v\n%s%q", format, err, p.Lines, p.Notes)
		}
	}
}

// A file that counts more than the one that is edited is found out before anything is written.
func TestPlanOverridden(t *testing.T) {
	h := host(t, nil, map[string]string{
		defaultConfig:                   "version = 2\nimports = [\"conf.d/*.toml\"]\n",
		"/etc/containerd/conf.d/a.toml": "version = 2\n[plugins.\"" + diffService + "\"]\ndefault = [\"walking\"]\n",
	})
	p, err := h.Plan(Containerd{Kind: External, Config: defaultConfig}, wanted)
	if !errors.Is(err, ErrOverridden) || !strings.Contains(err.Error(), "conf.d/a.toml") || p.Writable() || p.Lines == "" {
		t.Errorf("%v, %+v", err, p)
	}
}

func TestPlanRefused(t *testing.T) {
	h := host(t, nil, map[string]string{defaultConfig: "proxy_plugins = {}\n", "/etc/bad.toml": "x"})
	for _, kind := range []Kind{Managed, BuiltIn} {
		if _, err := h.Plan(Containerd{Kind: kind, Config: defaultConfig}, wanted); !errors.Is(err, ErrNotConfigurable) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	p, err := h.Plan(Containerd{Kind: External, Config: defaultConfig}, wanted)
	if !errors.Is(err, ErrEdit) || !strings.Contains(p.Lines, proxyLines) {
		t.Errorf("inline table: %v", err)
	}
	if _, err := h.Write(t.Context(), p); !errors.Is(err, ErrEdit) {
		t.Errorf("write: %v", err)
	}
	if _, err := h.Plan(Containerd{Kind: External, Config: "/etc/bad.toml"}, wanted); !errors.Is(err, ErrTOML) {
		t.Errorf("bad file: %v", err)
	}
}

func TestPlanTemplate(t *testing.T) {
	const dir = "/var/lib/rancher/k3s/agent/etc/containerd/"
	h := host(t, nil, map[string]string{dir + "config.toml": "version = 3\n"})
	c := Containerd{Kind: K3s, Config: dir + "config.toml"}
	p, err := h.Plan(c, wanted)
	if err != nil || p.File != dir+"config-v3.toml.tmpl" {
		t.Fatalf("%v, %+v", err, p)
	}
	if _, err := h.Write(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(h.At(p.File))
	if err != nil || !strings.HasPrefix(string(data), "{{ template \"base\" . }}\n\n"+proxyLines) {
		t.Errorf("%v, %q", err, data)
	}
	// One that is there already is a person's.
	p, err = h.Plan(c, wanted)
	if !errors.Is(err, ErrEdit) || p.Writable() || p.Lines == "" {
		t.Errorf("%v, %+v", err, p)
	}
}

// A containerd that does not accept a file, or reads something else in it, keeps its old one.
func TestWriteRefused(t *testing.T) {
	for name, script := range map[string]string{
		"refuses":      "#!/bin/sh\necho bad key >&2; exit 1\n",
		"understands":  "#!/bin/sh\necho version = 2\n",
		"prints chaff": "#!/bin/sh\necho '[['\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := host(t, nil, map[string]string{defaultConfig: "version = 2\n", "/usr/bin/containerd": script})
			p, err := h.Plan(Containerd{Kind: External, Config: defaultConfig, program: h.At("/usr/bin/containerd")}, wanted)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.Write(t.Context(), p); !errors.Is(err, ErrRefused) {
				t.Errorf("%v", err)
			}
			entries, err := os.ReadDir(h.At("/etc/containerd"))
			if err != nil || len(entries) != 1 {
				t.Errorf("%v, %v", entries, err)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	h := host(t, nil, map[string]string{"/real.toml": "version = 2\n"})
	if err := os.MkdirAll(h.At("/etc/containerd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(h.At("/real.toml"), 0o640), os.Symlink(h.At("/real.toml"), h.At(defaultConfig))); err != nil {
		t.Fatal(err)
	}
	c := Containerd{Kind: External, Config: defaultConfig}
	p, err := h.Plan(c, wanted)
	if err != nil {
		t.Fatal(err)
	}
	late := *p
	if _, err := h.Write(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(h.At("/real.toml"))
	link, linkErr := os.Lstat(h.At(defaultConfig))
	if err != nil || linkErr != nil || info.Mode().Perm() != 0o640 || link.Mode().Type() != fs.ModeSymlink {
		t.Errorf("%v, %v", info.Mode(), link.Mode())
	}
	if _, err := h.Write(t.Context(), &late); !errors.Is(err, ErrChanged) {
		t.Errorf("a plan for an older file: %v", err)
	}
	// A second copy does not replace the first.
	p.old, p.text = mustRead(t, h.At("/real.toml")), []byte("version = 3\n")
	if kept, err := h.Write(context.Background(), p); err != nil || !strings.HasSuffix(kept, "real.toml.before-layervault.1") {
		t.Errorf("%q, %v", kept, err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPlanDaemon(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"none":  {"", `{"features":{"containerd-snapshotter":true},"storage-driver":"layervault","containerd":"/run/c.sock"}`},
		"other": {`{"z": 1, "features": {"buildkit": true}, "storage-driver": "overlay2", "storage-opts": ["a"], "a": [1, 2]}`, `{"z":1,"features":{"buildkit":true,"containerd-snapshotter":true},"storage-driver":"layervault","a":[1,2],"containerd":"/run/c.sock"}`},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			if tc.in != "" {
				files[defaultDaemon] = tc.in
			}
			h := host(t, nil, files)
			p, err := h.PlanDaemon(t.Context(), defaultDaemon, "/run/c.sock", nil)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := h.Write(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			checkKept(t, kept, tc.in)
			var got json.RawMessage
			if err := json.Unmarshal(mustRead(t, h.At(defaultDaemon)), &got); err != nil {
				t.Fatal(err)
			}
			d, err := parseDaemon(got)
			if err != nil {
				t.Fatal(err)
			}
			compact, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(compact)); diff != "" {
				t.Error(diff)
			}
			if again, err := h.PlanDaemon(t.Context(), defaultDaemon, "/run/c.sock", nil); err != nil || again.Writable() {
				t.Errorf("a second time: %v", err)
			}
		})
	}
	for socket, d := range map[string]*Dockerd{defaultAddress: nil, "/run/c.sock": {ByFlag: true}} {
		p, err := host(t, nil, nil).PlanDaemon(t.Context(), defaultDaemon, socket, d)
		if err != nil || strings.Contains(p.Lines, `"containerd":`) {
			t.Errorf("%s: %v, %s", socket, err, p.Lines)
		}
	}
	for _, bad := range []string{"[]", "{", `{"features": 5}`, `{"a": 1, "a": 2}`, "null"} {
		h := host(t, nil, map[string]string{defaultDaemon: bad})
		if _, err := h.PlanDaemon(t.Context(), defaultDaemon, "/run/c.sock", nil); !errors.Is(err, ErrJSON) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Containers of Docker 29 did not start with Debian's runc.
func TestPlanDaemonOldRunc(t *testing.T) {
	for _, tc := range []struct {
		runc, in string
		off      bool
	}{
		{"1.1.15+ds1", "", true},
		{"1.1.15+ds1", `{"features": {"time-namespaces": true}}`, false}, // as the person says
		{"1.2.0", "", false},
		{"", "", false},
	} {
		files := map[string]string{defaultDaemon: tc.in}
		if tc.runc != "" {
			files["/usr/bin/runc"] = "#!/bin/sh\necho runc version " + tc.runc + "\n"
		}
		h := host(t, nil, files)
		h.Path = "/usr/bin"
		p, err := h.PlanDaemon(t.Context(), defaultDaemon, defaultAddress, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(p.Lines, `"time-namespaces": false`); got != tc.off {
			t.Errorf("runc %q, %q:\n%s", tc.runc, tc.in, p.Lines)
		}
		if got := strings.Contains(strings.Join(p.Notes, " "), "runc "+tc.runc+" refuses"); got != tc.off {
			t.Errorf("runc %q: notes %q", tc.runc, p.Notes)
		}
	}
}

// FuzzDaemon: every key of a daemon.json stays, in its order.
func FuzzDaemon(f *testing.F) {
	for _, text := range []string{"{}", `{"a": {"b": [1]}, "features": {"x": false}}`, `{"\u0061": 1.0e5}`, " "} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDaemon(data)
		if err != nil {
			return
		}
		names := func(d *daemonSettings) (all []string) {
			for _, m := range d.members {
				all = append(all, m.name)
			}
			return all
		}
		before := names(d)
		if err := d.set("layervault", "storage-driver"); err != nil {
			t.Fatal(err)
		}
		out, err := d.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseDaemon(out)
		if err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		after := names(again)
		if !slices.Equal(after[:len(before)], before) || again.text("storage-driver") != "layervault" {
			t.Errorf("%q became %q", data, out)
		}
	})
}

// FuzzSettings: reading a foreign configuration ends.
func FuzzSettings(f *testing.F) {
	f.Add([]byte("version = 2\nimports = ['a.toml', '*']\n[proxy_plugins.x]\ntype = 'snapshot'\n"))
	f.Add([]byte("plugins = 5\nproxy_plugins = [1]\nimports = [1]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parse(data)
		if err != nil {
			return
		}
		s := &Settings{Proxies: map[string]Proxy{}}
		s.merge(d.tree)
		s.Lacks(wanted)
		settingsFor(d.tree, "2.4.2", wanted)
	})
}
