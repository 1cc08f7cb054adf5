//go:build guest

package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// Suite containerd2 runs these with a containerd of its own on the PATH.

// A containerd that is not configured for layervault becomes so by one command and a restart,
// and the doctor sees each step.
func TestContainerdConfig(t *testing.T) {
	const image = "docker.io/library/config:latest"
	doctor := func() string {
		return sh(t, `layervault doctor --key versatile | grep -E '^[a-z]+ +containerd ' || true`)
	}
	serveContainerd(t)
	stop, _ := runContainerd(t, bareConfig+"# theirs\n")
	if got := doctor(); !strings.Contains(got, "lacks proxy_plugins.layervault, proxy_plugins.layervault-diff, default of the diff-service") {
		t.Errorf("the doctor says before:\n%s", got)
	}
	if got := sh(t, `layervault containerd config`); !strings.Contains(got, "# external containerd ") || !strings.Contains(got, "# to be in /run/door/config.toml\n[proxy_plugins.layervault]") {
		t.Errorf("config prints:\n%s", got)
	}
	sh(t, `layervault containerd config --write --cri`)
	if kept := readFile(t, "/run/door/config.toml.before-layervault"); kept != bareConfig+"# theirs\n" {
		t.Errorf("kept: %q", kept)
	}
	if now := readFile(t, "/run/door/config.toml"); !strings.HasPrefix(now, bareConfig+"# theirs\n") {
		t.Errorf("written: %q", now)
	}
	if got := doctor(); !strings.Contains(got, "it was started before it was configured") {
		t.Errorf("the doctor says before the restart:\n%s", got)
	}
	stop()
	stop, _ = runContainerd(t, "")
	sh(t, ctr+`$ctr plugin ls | grep -E 'io.containerd.snapshotter.v1 +layervault .* ok'`)
	sh(t, ctr+`$ctr image import $sn "$1"`, imageTar(t, image))
	if got := doctor(); strings.Contains(got, "warning") && !strings.Contains(got, "exports.root") || !strings.Contains(got, "was unpacked by layervault's differ") {
		t.Errorf("the doctor says after a pull:\n%s", got)
	}
	sh(t, ctr+`$ctr image rm --sync "$1"`, image)
	stop()
}

// layervault's database is lost, and made again from the layers for what containerd names.
func TestContainerdDatabaseLost(t *testing.T) {
	const image = "docker.io/library/lost:latest"
	door := serveContainerd(t)
	stop, _ := runContainerd(t, doorConfig(true))
	sh(t, ctr+`$ctr image import $sn "$1"`, imageTar(t, image))
	sh(t, ctr+`$ctr run $sn "$1" writer sh -c 'echo kept >/file'`, image)
	check := func(args string) string {
		return sh(t, `layervault snapshot check --containerd-database /run/door/root/io.containerd.metadata.v1.bolt/meta.db `+args+` 2>&1 || echo "status $?"`)
	}
	if got := check(""); !strings.Contains(got, "containerd runs") || !strings.Contains(got, "no problems") {
		t.Errorf("beside both:\n%s", got)
	}
	stop()
	if err := door.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = door.cmd.Wait()
	if got := check(""); got != "no problems" {
		t.Errorf("with both stopped:\n%s", got)
	}
	sh(t, `rm /persist/vault/snapshots/metadata.db`)
	if got := check(""); strings.Count(got, "\nunlisted ") != 4 || !strings.Contains(got, "status 6") {
		t.Errorf("without the database:\n%s", got)
	}
	if got := check("--mend --key versatile"); strings.Count(got, "mended: unlisted") != 4 || !strings.Contains(got, "no problems") {
		t.Errorf("mended:\n%s", got)
	}
	sh(t, `rm -f /run/layervault/*.sock`)
	serveContainerd(t)
	stop, _ = runContainerd(t, doorConfig(true))
	if got := sh(t, ctr+`$ctr snapshot $sn mounts /mnt writer | sh && cat /mnt/file && umount /mnt`); got != "kept" {
		t.Errorf("the container's file has %q", got)
	}
	sh(t, ctr+`$ctr run --rm $sn "$1" again cat /kept`, image)
	sh(t, ctr+`$ctr container rm writer; $ctr image rm --sync "$1"`, image)
	waitFor(t, func() bool { return kinds(t) == "" })
	stop()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
