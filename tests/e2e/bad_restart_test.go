//go:build guest

package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// dockerd gives up its own shutdown after 15 s, and leaves the plugin to the next dockerd: the container must
// not take ten of them.
const startKeeper = `docker run -d --name keeper --stop-timeout 1 --network none busybox sh -c 'echo before > /written; exec sleep 3600' >/dev/null
	docker exec keeper sh -c 'until [ -s /written ]; do sleep 0.1; done'`

// A shutdown of dockerd stops the containers; afterwards they start with what they had written.
func TestRestart(t *testing.T) {
	sh(t, startKeeper)
	t.Cleanup(func() { _, _ = tryDocker(t, "rm", "-f", "keeper") })
	restart(t)
	if got := docker(t, "ps", "-q"); got != "" {
		t.Errorf("containers run after a restart without live-restore: %s", got)
	}
	noLeaks(t)
	if got := sh(t, `docker start keeper >/dev/null; docker exec keeper cat /written`); got != "before" {
		t.Errorf("the container's file reads %q", got)
	}
}

// With live-restore containers run on while dockerd is away, and can be used and
// removed after it is back.
func TestLiveRestore(t *testing.T) {
	restart(t, "--live-restore")
	sh(t, startKeeper)
	pid := docker(t, "inspect", "--format", "{{.State.Pid}}", "keeper")
	stop(t)
	if _, err := os.Stat("/proc/" + pid); err != nil {
		t.Fatalf("the container ended with dockerd: %v", err)
	}
	// its files can be read and written while nobody serves the driver
	sh(t, `grep -q before "/proc/$1/root/written" && echo during > "/proc/$1/root/during"`, pid)
	start(t, "--live-restore")
	if now := docker(t, "inspect", "--format", "{{.State.Pid}} {{.State.Running}}", "keeper"); now != pid+" true" {
		t.Errorf("the container is %q, was process %s", now, pid)
	}
	if got := docker(t, "exec", "keeper", "cat", "/written", "/during"); got != "before\nduring" {
		t.Errorf("the container's files read %q", got)
	}
	contains(t, "docker diff", docker(t, "diff", "keeper"), "A /written", "A /during")
	docker(t, "commit", "keeper", "kept:1")
	docker(t, "rm", "-f", "keeper")
	if got := docker(t, "run", "--rm", "--network", "none", "kept:1", "cat", "/during"); got != "during" {
		t.Errorf("the committed file reads %q", got)
	}
	docker(t, "rmi", "kept:1")
	noLeaks(t)
	restart(t)
}

// dockerd itself is killed: the next one cleans up after it.
func TestDockerdKilled(t *testing.T) {
	sh(t, startKeeper)
	raw, err := os.ReadFile("/run/docker.pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// whoever reaps it, its port must be free before the next one starts
	sh(t, `until ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; do sleep 0.1; done; rm -f /run/docker.pid`, strconv.Itoa(pid))
	start(t)
	if got := docker(t, "ps", "-q"); got != "" {
		t.Errorf("containers run after dockerd was killed: %s", got)
	}
	startAgain(t)
	if got := docker(t, "exec", "keeper", "cat", "/written"); got != "before" {
		t.Errorf("the container's file reads %q", got)
	}
	docker(t, "rm", "-f", "keeper")
	noLeaks(t)
}

// startAgain starts the container after dockerd was killed. The new dockerd ends the plugin of the
// old one, and may unmount what the new plugin has mounted by then (moby, plugin/manager.go,
// HandleExitEvent): a start then finds an empty root. The plugin notices and ends (driver.ErrAstray),
// dockerd starts it anew, and the next start must work.
func startAgain(t *testing.T) {
	t.Helper()
	out, err := tryDocker(t, "start", "keeper")
	if err == nil {
		return
	}
	if !strings.Contains(out, "executable file not found") {
		t.Fatalf("docker start: %v\n%s", err, out)
	}
	t.Logf("moby unmounted the new plugin's mounts: %s", out)
	docker(t, "start", "keeper")
}
