//go:build guest

package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests begin without a dockerd (GUEST_BARE), and run it on overlay2: the volume door
// needs no graph driver.

// serveVolumes starts layervault serve --volumes, as packaging's unit does.
func serveVolumes(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("layervault", "serve", "--volumes", "--key", "versatile")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		_, err := os.Stat("/run/docker/plugins/layervault.sock")
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// dockerOnOverlay2 runs docker with a plain storage driver.
func dockerOnOverlay2(t *testing.T) {
	t.Helper()
	sh(t, `start-docker overlay2 && import-images`)
	t.Cleanup(func() { _, _ = run(context.Background(), "stop-docker", "--all") })
}

// The door alone: a v1 plugin on a socket, on any storage driver, killed and started anew
// under a container.
func TestVolumeDoorAlone(t *testing.T) {
	door := serveVolumes(t)
	dockerOnOverlay2(t)
	const name = "door"
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", name)
	docker(t, "run", "-d", "--name", "door", "--network", "none", "-v", name+":/v", "busybox", "sh", "-c", "echo before > /v/file; exec sleep 3600")
	docker(t, "exec", "door", "sh", "-c", "until [ -s /v/file ]; do sleep 0.1; done")
	if err := door.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = door.Wait()
	if got := docker(t, "exec", "door", "sh", "-c", "echo during >> /v/file; cat /v/file"); got != "before\nduring" {
		t.Errorf("without the plugin the container reads %q", got)
	}
	serveVolumes(t)
	if got := inVolume(t, name, "cat /v/file"); got != "before\nduring" {
		t.Errorf("another container reads %q", got)
	}
	sh(t, `layervault volume grow --key versatile "$1" 128M`, name)
	contains(t, "df", docker(t, "exec", "door", "df", "-m", "/v"), "/v")
	if size := sh(t, `docker exec door df -m /v | awk 'NR>1 {print ($2+0 > 100)}'`); size != "1" {
		t.Errorf("the container does not see the volume's new size: %s", size)
	}
	docker(t, "rm", "-f", "door")
	docker(t, "volume", "rm", name)
	if out := sh(t, `dmsetup ls; ls /var/lib/layervault/volumes /persist/vault/volumes`); strings.Contains(out, "layervault-") || strings.Contains(out, "#") {
		t.Errorf("left: %s", out)
	}
}

// Docker's own data-root lies on a volume that is mounted before docker starts: what a
// container writes to its log is on no disk in the clear. Without that it is, so the search
// can find.
func TestDataRootOnAVolume(t *testing.T) {
	const canary = "Aezaephae2quooh7Thoo0eeb"
	logs := func(name, verdict string) {
		t.Helper()
		dockerOnOverlay2(t)
		if got := sh(t, `{ layervault doctor --json --key versatile 2>/dev/null || true; } | jq -r '.[] | select(.check == "data-root") | .verdict'`); got != verdict {
			t.Errorf("%s: doctor says %q of the data-root, want %q", name, got, verdict)
		}
		sh(t, `echo "$2-$1" | docker run -i --rm=false --name "$1" --network none busybox cat >/dev/null; docker logs "$1" | grep -q "$2"`, name, canary)
		sh(t, `stop-docker --all; sync`)
	}
	found := func(name string) bool {
		t.Helper()
		out, _ := trySh(t, `find /persist -xdev -type f -print0 | xargs -0 grep -lsF -- "$1"`, canary+"-"+name)
		return strings.TrimSpace(out) != ""
	}
	sh(t, `rm -rf /persist/docker; mkdir -p /persist/docker`)
	logs("plain", "warning")
	if !found("plain") {
		t.Error("the search does not find what lies there in the clear")
	}
	sh(t, `rm -rf /persist/docker/*; layervault volume create --key versatile -o size=2G docker-root >/dev/null
		layervault volume mount --key versatile docker-root /persist/docker >/dev/null`)
	logs("covered", "ok")
	if out := sh(t, `ls -A /persist/docker`); !strings.Contains(out, "containers") {
		t.Errorf("data-root holds %q", out)
	}
	sh(t, `layervault volume umount docker-root /persist/docker`)
	if out := sh(t, `ls -A /persist/docker`); out != "" {
		t.Errorf("below the mount lies %q", out)
	}
	if found("covered") {
		t.Error("the container's log is on the disk in the clear")
	}
	// After a reboot, so to speak: the same volume, before docker, with the log still there.
	sh(t, `layervault volume mount --key versatile docker-root /persist/docker >/dev/null
		start-docker overlay2; docker logs covered | grep -q "$1"; stop-docker --all
		layervault volume umount docker-root; layervault volume remove --key versatile docker-root`, canary)
}
