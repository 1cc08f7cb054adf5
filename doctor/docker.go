package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	dockerSocket = "/run/docker.sock"
	// dockerTimeout bounds one question to the engine; it answers in milliseconds
	// unless it hangs.
	dockerTimeout = 10 * time.Second

	// The engines' treatment of graph driver plugins, from moby's source: up to 26
	// only "experimental" gates them, 27 wants an environment variable too, 28
	// removed them.
	gatedMajor   = 27
	removedMajor = 28
	gateEnv      = "DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS"
)

// dockerd is what the Docker API tells of itself at GET /info.
type dockerd struct {
	Version      string `json:"ServerVersion"`     // "26.1.5+dfsg1"
	Experimental bool   `json:"ExperimentalBuild"` // may load graph driver plugins
	Driver       string // "overlay2", "layervault:latest"
	// Snapshotter: Driver is one of containerd's.
	Snapshotter bool `json:"-"`
}

// snapshotterType is the type of driver that engines with containerd's image store tell of.
const snapshotterType = "io.containerd.snapshotter.v1"

// major is the first number of an engine's version; 0 for one that has none.
func (e dockerd) major() int {
	head, _, _ := strings.Cut(e.Version, ".")
	n, err := strconv.Atoi(head)
	if err != nil {
		return 0
	}
	return n
}

func askDocker(ctx context.Context, socket string) (dockerd, error) {
	var info struct {
		dockerd
		DriverStatus [][2]string
	}
	err := askInfo(ctx, socket, &info)
	info.Snapshotter = slices.Contains(info.DriverStatus, [2]string{"driver-type", snapshotterType})
	return info.dockerd, err
}

// dockerRoot is the data-root of the engine.
func dockerRoot(ctx context.Context, socket string) (string, error) {
	var info struct{ DockerRootDir string }
	err := askInfo(ctx, socket, &info)
	return info.DockerRootDir, err
}

// askInfo decodes what the engine tells of itself.
func askInfo(ctx context.Context, socket string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/info", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	err = json.NewDecoder(res.Body).Decode(into)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return fmt.Errorf("answer of the engine: %w", err)
	}
	return nil
}

func (h Host) checkDocker(ctx context.Context) []Finding {
	e, err := askDocker(ctx, dockerSocket)
	if err != nil {
		return []Finding{warn("apt-get install docker.io, systemctl start docker", "no engine answers on %s: %v", dockerSocket, err)}
	}
	return judgeEngine(e, h.Driver, dockerdEnv(gateEnv) != "")
}

// judgeEngine says what an engine does with a graph driver plugin of that name.
func judgeEngine(e dockerd, driver string, gateOpen bool) []Finding {
	name, _, _ := strings.Cut(e.Driver, ":")
	switch major := e.major(); {
	case major == 0:
		return []Finding{warn("", "engine version %q is not understood", e.Version)}
	case e.Snapshotter && name == driver:
		return []Finding{
			ok("Docker %s runs on containerd's snapshotter %s", e.Version, e.Driver),
			ok("docker run --storage-opt size= has no effect with a snapshotter, and Docker does not say so: the setting size of layervault bounds a container's layer"),
		}
	case major >= removedMajor:
		return []Finding{lack("layervault containerd config --write --docker: layervault help containerd; volumes work with every Docker",
			"Docker %s stores its layers with %s: graph driver plugins were removed in 28.0, it needs layervault's snapshotter", e.Version, e.Driver)}
	case name == driver:
		return []Finding{ok("Docker %s runs on %s", e.Version, e.Driver)}
	case major == gatedMajor && !gateOpen:
		return []Finding{lack("systemctl edit docker, Environment="+gateEnv+"=1",
			"Docker %s: graph driver plugins are deprecated and want %s set", e.Version, gateEnv)}
	}
	var out []Finding
	if !e.Experimental {
		out = append(out, lack(`make install sets it; by hand: "experimental": true in /etc/docker/daemon.json`,
			"Docker %s is not experimental, and refuses graph driver plugins", e.Version))
	}
	return append(out, warn(`make install sets it; by hand: "storage-driver": "layervault" in /etc/docker/daemon.json`,
		"Docker %s stores its layers with %s", e.Version, e.Driver))
}

// dockerPID reads the file that dockerd keeps its process id in.
func dockerPID() (int, error) {
	data, err := os.ReadFile("/run/docker.pid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// dockerdEnv is a variable of the running dockerd, "" when it cannot be read.
func dockerdEnv(name string) string {
	pid, err := dockerPID()
	if err != nil {
		return ""
	}
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return ""
	}
	for _, v := range strings.Split(string(environ), "\x00") {
		if value, found := strings.CutPrefix(v, name+"="); found {
			return value
		}
	}
	return ""
}
