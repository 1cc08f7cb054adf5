package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// host makes a host of processes, "pid parent command line", and files.
func host(t *testing.T, processes []string, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	h := Host{Proc: filepath.Join(root, "proc"), Root: root, Path: "/nowhere"}
	put := func(path, content string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range processes {
		fields := strings.Fields(p)
		put("proc/"+fields[0]+"/cmdline", strings.Join(fields[2:], "\x00")+"\x00", 0o644)
		put("proc/"+fields[0]+"/stat", fmt.Sprintf("%s (a ) name) S %s 1 1", fields[0], fields[1]), 0o644)
	}
	put("proc/self/nothing", "", 0o644)
	for path, content := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		put(path, content, mode)
	}
	return h
}

// program is a containerd that knows its version and dumps what it is given.
const program = "#!/bin/sh\ncase $1 in\n--version) echo containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1 ;;\n--config) cat \"$2\" ;;\nesac\n"

func TestFind(t *testing.T) {
	const k3s = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
	for name, tc := range map[string]struct {
		processes []string
		files     map[string]string
		path      string
		want      Found
	}{
		"nothing": {},
		"external, for docker": {
			processes: []string{"10 1 /usr/bin/containerd", "20 1 /usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock", "30 1 bash containerd"},
			want: Found{
				Containerds: []Containerd{{Kind: External, PID: 10, Config: defaultConfig, Socket: defaultAddress, Root: defaultRoot}},
				Dockerd:     &Dockerd{PID: 20, Config: defaultDaemon, Containerd: defaultAddress, ByFlag: true},
			},
		},
		"external, with a configuration": {
			processes: []string{"10 1 containerd -c /etc/c.toml --root=/persist/c"},
			files:     map[string]string{"/etc/c.toml": "version = 3\nroot = '/no'\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/run/c.sock'\n"},
			want:      Found{Containerds: []Containerd{{Kind: External, PID: 10, Config: "/etc/c.toml", Socket: "/run/c.sock", Root: "/persist/c"}}},
		},
		"managed": {
			processes: []string{"20 1 dockerd --config-file /etc/d.json", "21 20 containerd --config /var/run/docker/containerd/containerd.toml -a /run/docker/containerd/containerd.sock"},
			want: Found{
				Containerds: []Containerd{{Kind: Managed, PID: 21, Config: "/var/run/docker/containerd/containerd.toml", Socket: managedAddress, Root: defaultRoot}},
				Dockerd:     &Dockerd{PID: 20, Config: "/etc/d.json"},
			},
		},
		"built-in": {
			processes: []string{"20 1 dockerd"},
			want:      Found{Containerds: []Containerd{{Kind: BuiltIn, PID: 20, Socket: managedAddress}}, Dockerd: &Dockerd{PID: 20, Config: defaultDaemon}},
		},
		"external at the usual socket": {
			processes: []string{"10 1 containerd", "20 1 dockerd"},
			want: Found{
				Containerds: []Containerd{{Kind: External, PID: 10, Config: defaultConfig, Socket: defaultAddress, Root: defaultRoot}},
				Dockerd:     &Dockerd{PID: 20, Config: defaultDaemon, Containerd: defaultAddress},
			},
		},
		"named in daemon.json": {
			processes: []string{"20 1 dockerd"},
			files:     map[string]string{defaultDaemon: `{"containerd": "/run/c.sock"}`},
			want:      Found{Dockerd: &Dockerd{PID: 20, Config: defaultDaemon, Containerd: "/run/c.sock"}},
		},
		"k3s": {
			processes: []string{"10 9 containerd -c " + k3s + " -a /run/k3s/containerd/containerd.sock --state /run/k3s/containerd --root /var/lib/rancher/k3s/agent/containerd"},
			want: Found{Containerds: []Containerd{{
				Kind: K3s, PID: 10, Config: k3s, Socket: "/run/k3s/containerd/containerd.sock", Root: "/var/lib/rancher/k3s/agent/containerd",
			}}},
		},
		"installed": {
			files: map[string]string{"/usr/bin/containerd": program},
			path:  "/bin:/usr/bin",
			want:  Found{Containerds: []Containerd{{Kind: External, Version: "1.7.24~ds1", Config: defaultConfig, Socket: defaultAddress, Root: defaultRoot}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := host(t, tc.processes, tc.files)
			if tc.path != "" {
				h.Path = tc.path
			}
			got := h.Find(t.Context())
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Containerd{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"1.7.24~ds1": false, "1.7.35": true, "v2.0.0-rc.1": true, "1.7": false, "1.10.0": true, "": false, "dev": false} {
		if got := AtLeast(version, 1, 7, 35); got != want {
			t.Errorf("%q: %t", version, got)
		}
	}
}
