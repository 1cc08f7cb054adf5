//go:build guest

package e2e

import (
	"context"
	"strings"
	"testing"
)

// remap is dockerd's option; dockremap has the ids from 500000 on (tests/guest/image).
const remap = "--userns-remap=default"

// installRemapped installs the plugin in the data-root that a remapping dockerd
// keeps beside the usual one, /persist/docker/500000.500000: images, containers
// and plugins are its own, the vault is shared.
const installRemapped = `
	start-docker overlay2 ` + remap + `
	docker plugin inspect layervault >/dev/null 2>&1 || docker plugin create layervault /src/dist/plugin >/dev/null
	docker plugin set layervault key=tpm
	docker plugin enable --timeout 0 layervault >/dev/null
	stop-docker
	# dockerd makes these for itself alone (0700), but the remapped root must pass through to its file system
	chmod 0711 /persist/docker/500000.500000/plugins /persist/docker/500000.500000/plugins/*/`

// With --userns-remap root in a container is nobody on the host: dockerd keeps a
// data-root of its own for it, and the driver gives files to the mapped owners.
func TestUsernsRemap(t *testing.T) {
	stop(t)
	t.Cleanup(func() {
		// Not stop: the test's context has ended.
		if out, err := run(context.Background(), "stop-docker"); err != nil {
			t.Errorf("stop-docker: %v\n%s", err, out)
		}
	})
	if encrypted() {
		sh(t, installRemapped)
	}
	start(t, remap)
	contains(t, "docker info", docker(t, "info", "--format", "{{.SecurityOptions}} {{.Driver}}"), "name=userns", driver())
	sh(t, `docker import "$1" remapped:1 >/dev/null`, busyboxTar)
	if out, err := tryDocker(t, "run", "--rm", "--network", "none", "remapped:1", "true"); err != nil {
		t.Fatalf("a remapped container does not start: %v\n%s\n%s", err, out,
			sh(t, `namei -lm /persist/docker/500000.500000/plugins/*/propagated-mount/* 2>&1 | head -40`))
	}
	if got := docker(t, "run", "--rm", "--network", "none", "remapped:1", "sh", "-c",
		`id -u; stat -c '%u:%g' / /bin/busybox; echo x > /mine; chown 12:34 /mine; stat -c '%u:%g' /mine; head -1 /proc/self/uid_map`); strings.Join(strings.Fields(got), " ") !=
		"0 0:0 0:0 12:34 0 500000 65536" {
		t.Errorf("in a remapped container:\n%s", got)
	}
	sh(t, `printf 'FROM remapped:1\nRUN echo built > /built && chown 7:8 /built && rm /bin/vi\n' | DOCKER_BUILDKIT=0 docker build -q --network none -t remapped:2 - >/dev/null`)
	if got := docker(t, "run", "--rm", "--network", "none", "remapped:2", "sh", "-c", `stat -c '%u:%g' /built; test -e /bin/vi || echo gone`); got != "7:8\ngone" {
		t.Errorf("in a remapped container of a built image:\n%s", got)
	}
	// the layers hold the same files as elsewhere: an image goes out and comes back
	sh(t, `id=$(docker image inspect -f '{{.Id}}' remapped:2); docker save -o "$1/r.tar" remapped:2; docker rmi remapped:2 >/dev/null
		docker load -qi "$1/r.tar"; test "$(docker image inspect -f '{{.Id}}' remapped:2)" = "$id"
		docker run --rm --network none remapped:2 stat -c '%u:%g' /built | grep -x 7:8 >/dev/null
		docker rmi remapped:2 remapped:1 >/dev/null`, t.TempDir())
	noLeaks(t)
}
