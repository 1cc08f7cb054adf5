//go:build guest

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onSealed is an image of an imported base and two steps of a build by BuildKit, which are writable
// images. Its container runs a process and has changed a file of the base.
const onSealed = `oddtree | docker import - seal-odd:1 >/dev/null
	printf 'FROM busybox\nRUN echo one >/one\nRUN rm /bin/vi; echo two >/two\n' | DOCKER_BUILDKIT=1 docker build -q --network none -t seal-built:1 - >/dev/null
	docker run -d --name sealed --stop-timeout 1 --network none seal-built:1 sh -c 'echo own >>/two; touch /ready; exec sleep 3600' >/dev/null
	docker exec sealed sh -c 'until [ -e /ready ]; do sleep 0.1; done'`

// Under dockerd, a container runs on layers while they are sealed anew: by the program while dockerd
// is away, and by the plugin, the steps of its build too. It sees no change, and starts again.
func TestSealDocker(t *testing.T) {
	if !encrypted() {
		return
	}
	stop(t)
	t.Cleanup(func() {
		stop(t)
		setPlugin(t, "sector=4096", "seal-committed=off")
	})
	setPlugin(t, "sector=512") // no hash tree
	start(t, "--live-restore")
	hideEROFS(t)
	sh(t, onSealed)
	t.Cleanup(func() {
		sh(t, `docker rm -f sealed >/dev/null; docker rmi -f seal-built:1 seal-odd:1 >/dev/null; docker builder prune -af >/dev/null`)
		noLeaks(t)
	})
	odd := treeOf(t, "seal-odd:1")
	base := imageFile(t, "seal-odd:1")
	if sealedForm(t, base) != "ext4" {
		t.Fatal("the layers are not of the older form")
	}
	pid := docker(t, "inspect", "--format", "{{.State.Pid}}", "sealed")
	stop(t)
	sh(t, `layervault vault upgrade --layers`)
	if sealedForm(t, base) == "ext4" {
		t.Error("a layer was not sealed anew")
	}
	if got := sh(t, `cat "/proc/$1/root/two"; echo during >>"/proc/$1/root/own"`, pid); got != "two\nown" {
		t.Errorf("the container's file reads %q", got)
	}
	start(t, "--live-restore")
	restarted := func(when string) {
		t.Helper()
		sh(t, `docker restart sealed >/dev/null`)
		if got := docker(t, "exec", "sealed", "sh", "-c", "sort -u /two; cat /one; ls /bin/vi 2>&1 | tail -c 10"); !strings.HasPrefix(got, "own\ntwo\none\n") {
			t.Errorf("%s: the container's files read %q", when, got)
		}
		contains(t, "docker diff", docker(t, "diff", "sealed"), "C /two", "A /ready")
		sameTree(t, when, treeOf(t, "seal-odd:1"), odd)
	}
	restarted("sealed by the program")

	step := docker(t, "image", "inspect", "--format", `{{index .GraphDriver.Data "ImagePath"}}`, "seal-built:1")
	docker(t, "stop", "sealed")
	stop(t)
	setPlugin(t, "sector=4096", "seal-committed=on")
	start(t, "--live-restore")
	docker(t, "start", "sealed")
	waitFor(t, func() bool { // the plugin looks once a minute
		kind, err := trySh(t, `jq -r .kind "$1"`, filepath.Join(filepath.Dir(step), "layer.json"))
		return err == nil && kind == "sealed"
	})
	if got := sealedForm(t, step); got != "erofs" {
		t.Errorf("the step of a build is %s", got)
	}
	restarted("sealed by the plugin")
	sh(t, `layervault layer verify --all`)
}

// hideEROFS hides the kernel's EROFS from the plugin that runs now.
func hideEROFS(t *testing.T) {
	t.Helper()
	pid, err := pluginPID()
	must(t, err)
	sh(t, `nsenter --target "$1" --mount mount -t tmpfs none /sys/fs/erofs`, fmt.Sprint(pid))
}

// sealedForm is the file system that the header of an image names; one that names none is ext4.
func sealedForm(t *testing.T, path string) string {
	t.Helper()
	f, err := os.ReadFile(path)
	must(t, err)
	if strings.Contains(string(f[:luksHeader]), `"filesystem":"erofs"`) {
		return "erofs"
	}
	return "ext4"
}
