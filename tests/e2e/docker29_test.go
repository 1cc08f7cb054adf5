//go:build guest

package e2e

import (
	"strings"
	"testing"
)

// These tests run on the engine that start-docker29 started: Docker 29, an external containerd, and
// layervault as a service with sockets of its own. The sessions run on it too.

// services are layervault, containerd and dockerd, as start-docker29 names them, with the script
// that ends each and one that starts it again. layervault's sockets stay open while it is away.
var services = []struct{ name, end, again string }{
	{"layervault killed", `pkill -KILL -x layervault`, `until pgrep -x layervault; do sleep 0.1; done`},
	{"containerd", `stop containerd`, `start-docker29`},
	{"containerd killed", `stop -KILL containerd`, `start-docker29`},
	{"dockerd", `stop dockerd`, `start-docker29`},
	{"dockerd killed", `stop -KILL dockerd`, `start-docker29`},
	{"dockerd, beside layervault", `stop dockerd; pkill -KILL -x layervault`, `start-docker29`},
	{"all three", `stop dockerd; stop containerd; pkill -TERM -x layervault`, `start-docker29`},
}

// stopService defines stop [SIGNAL] NAME, which waits for the end.
const stopService = `
	stop() {
		local signal=-TERM pid
		[ $# = 1 ] || { signal=$1; shift; }
		pid=$(cat "/run/docker29/$1.pid")
		kill "$signal" "$pid"
		while [ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.1; done
	}
	`

// Containers go on while each of the three services is restarted, and what is new starts after.
func TestDocker29Restart(t *testing.T) {
	for _, s := range services {
		t.Run(s.name, func(t *testing.T) {
			// dockerd ends its containers when it is stopped, and those that are to go on start again with it.
			docker(t, "run", "-d", "--name", "goes-on", "--restart", "always", "--network", "none", "busybox", "sh", "-c",
				`echo start >> /starts; exec sleep 36000`)
			docker(t, "create", "--name", "stopped", "--network", "none", "busybox", "sh", "-c", `cat /kept`)
			sh(t, `echo kept >/run/kept; docker cp /run/kept stopped:/kept`)
			docker(t, "exec", "goes-on", "sh", "-c", `until [ -s /starts ]; do sleep 0.1; done; echo before > /file`)
			sh(t, stopService+s.end)
			sh(t, s.again)
			sh(t, `until docker exec goes-on true; do sleep 0.2; done`)
			if got := docker(t, "exec", "goes-on", "cat", "/file"); got != "before" {
				t.Errorf("the container that ran reads %q", got)
			}
			if got := docker(t, "start", "-a", "stopped"); got != "kept" {
				t.Errorf("the container that was stopped says %q", got)
			}
			if got := docker(t, "run", "--rm", "--network", "none", "busybox", "echo", "new"); got != "new" {
				t.Errorf("a new container says %q", got)
			}
			docker(t, "rm", "-f", "goes-on", "stopped")
		})
	}
}

// One vault serves images, containers and volumes of one engine.
func TestDocker29Volume(t *testing.T) {
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", "beside")
	docker(t, "run", "--rm", "--network", "none", "-v", "beside:/v", "busybox", "sh", "-c", "echo in the volume > /v/file")
	if got := docker(t, "run", "--rm", "--network", "none", "-v", "beside:/v", "busybox", "cat", "/v/file"); got != "in the volume" {
		t.Errorf("a second container reads %q", got)
	}
	docker(t, "volume", "rm", "beside")
}

// What docker says of itself: the snapshotter, sizes, and that the last image went through our differ.
func TestDocker29Info(t *testing.T) {
	if got := docker(t, "info", "--format", "{{.Driver}} {{.DriverStatus}}"); !strings.HasPrefix(got, "layervault ") || !strings.Contains(got, "io.containerd.snapshotter.v1") {
		t.Errorf("docker info: %s", got)
	}
	if got := docker(t, "version", "--format", "{{.Server.APIVersion}}"); got < "1.52" {
		t.Errorf("the engine's API is %s: not Docker 29", got)
	}
	sh(t, `layeredimage doctor:1 3 >/run/doctor.tar; docker load -q -i /run/doctor.tar; rm /run/doctor.tar`)
	doctor := sh(t, `layervault doctor --key tpm | grep -E '^[a-z]+ +(containerd|docker)' || true`)
	contains(t, "doctor", doctor, "was unpacked by layervault's differ")
	docker(t, "run", "--name", "sized", "--network", "none", "busybox", "dd", "if=/dev/zero", "of=/x", "bs=1M", "count=3")
	if got := docker(t, "ps", "-as", "--filter", "name=sized", "--format", "{{.Size}}"); !strings.HasPrefix(got, "3") {
		t.Errorf("docker ps -s says %s of a container that wrote 3 MiB", got)
	}
	docker(t, "system", "df")
	docker(t, "rm", "sized")
	docker(t, "rmi", "doctor:1")
}
