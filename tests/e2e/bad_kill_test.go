//go:build guest

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// Each takes some seconds, and half a minute in an emulated guest, where all of
	// `make test` has forty: that runs with -short.
	kills      = 100
	killsShort = 8
	// longestLife is how long the plugin lives at most between two kills: long
	// enough for a container to start or a layer to be written, so that kills hit
	// every stage of both.
	longestLife = 4 * time.Second
	// firstLook is when dockerd first connects to a plugin that it started again; one that it
	// finds dead four times, so far apart, it gives up for good (moby, pluginPostStart in
	// plugin/manager_linux.go). Each plugin lives until then at least.
	firstLook = 3 * time.Second
)

// live waits for a moment that nobody chose of the life of what is killed, after some time at
// least.
func live(t *testing.T, least time.Duration) {
	t.Helper()
	liveUpTo(t, least, longestLife)
}

// liveUpTo is live with another bound of what is added to least.
func liveUpTo(t *testing.T, least, most time.Duration) {
	t.Helper()
	select {
	case <-time.After(least + time.Duration(rand.Int64N(int64(most)))):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// killUnderLoad kills a server many times while scripts use it, each again and again with the
// number of its turn.
func killUnderLoad(t *testing.T, kills int, scripts map[string]string, kill func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var good, bad atomic.Int64
	for name, script := range scripts {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := run(ctx, "bash", "-c", script, name, fmt.Sprint(i))
				if err == nil {
					good.Add(1)
				} else if ctx.Err() == nil {
					bad.Add(1)
				}
			}
		})
	}
	for i := range kills {
		if err := kill(); err != nil {
			t.Errorf("kill %d: %v", i+1, err)
			break
		}
	}
	stop()
	load.Wait()
	t.Logf("%d kills, %d calls of the load went through, %d failed", kills, good.Load(), bad.Load())
	if good.Load() == 0 {
		t.Error("no call of the load went through: nothing was tested")
	}
}

// The plugin is killed many times while containers run, images are loaded and
// images are built. dockerd must go on, what was committed must read back byte
// for byte, and nothing may stay behind.
func TestPluginKilledUnderLoad(t *testing.T) {
	if !encrypted() {
		return // overlay2 is no process
	}
	kills := kills
	if testing.Short() {
		kills = killsShort
	}
	sh(t, `oddtree | docker import - kill-odd:1 >/dev/null; layeredimage kill-deep:1 12 > "$1"; docker load -qi "$1" >/dev/null`, t.TempDir()+"/deep.tar")
	before := map[string]string{"busybox": "", "kill-odd:1": "", "kill-deep:1": ""}
	for image := range before {
		before[image] = treeOf(t, image)
	}

	killUnderLoad(t, kills, map[string]string{
		"run":   `docker run --rm --name "kill-run-$1" --network none kill-deep:1 /none 2>/dev/null || docker run --rm --network none busybox sh -c 'dd if=/dev/zero of=/x bs=64k count=16 2>/dev/null; sync'`,
		"load":  `layeredimage "kill-load:$1" 3 | docker load -q; docker rmi "kill-load:$1"`,
		"build": `printf 'FROM busybox\nRUN echo %s > /n\nRUN rm /bin/vi\n' "$1" | DOCKER_BUILDKIT=0 docker build -q --network none -t "kill-build:$1" -`,
	}, func() error {
		live(t, firstLook)
		if err := killPlugin(t.Context()); err != nil {
			out, _ := run(t.Context(), "bash", "-c", `grep -v "ignoring event" "$1" | tail -n 40`, "bash", dockerLog)
			return fmt.Errorf("%w; dockerd's log:\n%s", err, out)
		}
		return nil
	})

	// dockerd goes on: a container starts without anybody's help
	if out := docker(t, "run", "--rm", "--network", "none", "busybox", "echo", "alive"); !strings.Contains(out, "alive") {
		t.Errorf("a container after the kills printed %q", out)
	}
	for image, want := range before {
		sameTree(t, image, treeOf(t, image), want)
	}
	// images that were built in between are whole or not there
	for _, image := range strings.Fields(docker(t, "images", "--format", "{{.Repository}}:{{.Tag}}")) {
		if strings.HasPrefix(image, "kill-build:") {
			if n := docker(t, "run", "--rm", "--network", "none", image, "cat", "/n"); "kill-build:"+n != image {
				t.Errorf("%s holds %q", image, n)
			}
			break // one of many: each costs a container
		}
	}
	sh(t, `docker ps -aq | xargs -r docker rm -f >/dev/null
		docker images --format '{{.Repository}}:{{.Tag}}' | grep '^kill-' | xargs -r docker rmi -f >/dev/null
		docker image prune -f >/dev/null`)
	noLeaks(t)
}

// A container runs on while the plugin is killed and started anew. The new plugin was
// left with copies of the container's mount that no unmount reached: the container could
// not be removed, and its images stayed open.
func TestPluginKilledUnderAContainer(t *testing.T) {
	if !encrypted() {
		return
	}
	sh(t, startKeeper)
	t.Cleanup(func() { _, _ = tryDocker(t, "rm", "-f", "keeper") })
	if err := killPlugin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := docker(t, "exec", "keeper", "sh", "-c", "echo after >> /written; cat /written"); got != "before\nafter" {
		t.Errorf("the container's file reads %q", got)
	}
	docker(t, "rm", "-f", "keeper")
	noLeaks(t)
}
