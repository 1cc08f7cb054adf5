//go:build guest

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests begin without a containerd (GUEST_BARE). Its root is in memory, so that what lies on
// the disk is layervault's alone.

// ctr runs containerd's client with a script around it: $ctr is the client, $sn its flag.
const ctr = `ctr="ctr --address /run/door/containerd.sock"; sn="--snapshotter layervault"; `

// door is a running layervault with the doors for containerd.
type door struct {
	args []string
	cmd  *exec.Cmd
}

// serveContainerd starts layervault with the doors for containerd, as packaging's unit does.
func serveContainerd(t *testing.T, more ...string) *door {
	t.Helper()
	d := &door{args: append([]string{"serve", "--doors", "snapshots,diff", "--key", "versatile", "--containerd", "/run/door/containerd.sock"}, more...)}
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	return d
}

// start returns when the doors answer. The sockets of a killed one may still lie there.
func (d *door) start(ctx context.Context) error {
	d.cmd = exec.Command("layervault", d.args...)
	d.cmd.Stdout, d.cmd.Stderr = os.Stderr, os.Stderr
	if err := d.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return poll(ctx, func() (bool, error) {
		conn, err := net.Dial("unix", "/run/layervault/diff.sock")
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
}

// kill ends it as nothing else does.
func (d *door) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return is(), nil }); err != nil {
		t.Fatal(err)
	}
}

// bareConfig is a containerd that knows nothing of layervault, and doorConfig one that does, with
// or without its differ.
const bareConfig = `version = 2
root = "/run/door/root"
state = "/run/door/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
  address = "/run/door/containerd.sock"
`

func doorConfig(withDiffer bool) string {
	differ, differs := "walking", `"walking"`
	if withDiffer {
		differ, differs = "layervault-diff", `"layervault-diff", "walking"`
	}
	return bareConfig + `[plugins."io.containerd.service.v1.diff-service"]
  default = [` + differs + `]
[proxy_plugins.layervault]
  type = "snapshot"
  address = "/run/layervault/snapshot.sock"
[proxy_plugins.layervault-diff]
  type = "diff"
  address = "/run/layervault/diff.sock"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/` + runtime.GOARCH + `"
  snapshotter = "layervault"
  differ = "` + differ + `"
`
}

// startContainerd starts containerd on layervault until the test ends, and removes all it has.
// kill ends it as nothing else does.
func startContainerd(t *testing.T, withDiffer bool) (kill func()) {
	t.Helper()
	_, kill = runContainerd(t, doorConfig(withDiffer))
	return kill
}

// runContainerd starts containerd with a configuration, "" for the one that is there; stop stops
// it before the test ends, kill ends it as nothing else does.
func runContainerd(t *testing.T, config string) (stop, kill func()) {
	t.Helper()
	sh(t, `mkdir -p /run/door`)
	if config != "" {
		if err := os.WriteFile("/run/door/config.toml", []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("containerd", "--config", "/run/door/config.toml")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		_, _ = run(context.Background(), "rm", "-rf", "/run/door")
	})
	waitFor(t, func() bool {
		_, err := trySh(t, ctr+`$ctr version`)
		return err == nil
	})
	return stop, func() {
		_ = cmd.Process.Kill()
		stop()
	}
}

// imageTar is a docker archive: busybox, a layer with a file in it, and one that deletes it.
func imageTar(t *testing.T, name string) string {
	t.Helper()
	base, err := os.ReadFile("/usr/share/layervault-guest/busybox.tar")
	if err != nil {
		t.Fatal(err)
	}
	layers := [][]byte{base, tarOf(t, "kept", "kept", "deleted", "deleted"), tarOf(t, ".wh.deleted", "")}
	var diffIDs []string
	files := []string{}
	for n, data := range layers {
		diffIDs = append(diffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, err := w.Write(data)
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		files = append(files, fmt.Sprintf("layer%d.tar.gz", n), packed.String())
	}
	config, err := json.Marshal(map[string]any{
		"architecture": strings.TrimSpace(sh(t, `dpkg --print-architecture`)), "os": "linux",
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
		"config": map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/bin:/usr/bin:/sbin"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{files[0], files[2], files[4]},
	}})
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "config.json", string(config), "manifest.json", string(manifest))
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, tarOf(t, files...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tarOf makes a tar of names and contents.
func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for n := 0; n < len(files); n += 2 {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[n], Mode: 0o644, Size: int64(len(files[n+1]))})
		_, writeErr := io.WriteString(w, files[n+1])
		if err = errors.Join(err, writeErr); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// kinds says how many layers of each kind there are, as "sealed 3".
func kinds(t *testing.T) string {
	t.Helper()
	return sh(t, `layervault image list --json | jq -r '[.[] | .kind] | group_by(.) | map("\(.[0]) \(length)") | join(" ")'`)
}

// A pull, containers, a restart of each side, removal and garbage collection, with our differ
// and without.
func TestContainerdDoor(t *testing.T) {
	const image = "docker.io/library/door:latest"
	for _, withDiffer := range []bool{true, false} {
		t.Run(fmt.Sprintf("differ %t", withDiffer), func(t *testing.T) {
			door := serveContainerd(t)
			startContainerd(t, withDiffer)
			sh(t, ctr+`$ctr image import $sn "$1"`, imageTar(t, image))
			want := "writable 3"
			if withDiffer {
				want = "sealed 3"
			}
			if got := kinds(t); got != want {
				t.Errorf("layers after an import: %s, want %s", got, want)
			}
			if got := sh(t, ctr+`$ctr run --rm $sn "$1" one sh -c 'cat /kept; ls /deleted 2>&1 | grep -c "No such"; echo >/new && echo written'`, image); got != "kept1\nwritten" {
				t.Errorf("a container says %q", got)
			}
			sh(t, ctr+`$ctr run -d $sn "$1" stays sh -c 'echo before >/file; exec sleep 3600'`, image)
			sh(t, ctr+`until $ctr task exec --exec-id wait stays cat /file; do sleep 0.2; done`)
			sh(t, ctr+`$ctr snapshot $sn usage stays | grep -q stays`)
			// Without the service a container goes on; with the next one, new ones start.
			door.kill()
			if got := sh(t, ctr+`$ctr task exec --exec-id during stays sh -c 'echo during >>/file; cat /file'`); got != "before\nduring" {
				t.Errorf("without the service a container reads %q", got)
			}
			serveContainerd(t)
			if got := sh(t, ctr+`$ctr run --rm $sn "$1" two cat /kept; $ctr task exec --exec-id after stays cat /file`, image); got != "keptbefore\nduring" {
				t.Errorf("after a restart: %q", got)
			}
			sh(t, ctr+`$ctr task kill -s KILL stays; until $ctr task rm stays; do sleep 0.2; done; $ctr container rm stays; $ctr image rm --sync "$1"`, image)
			waitFor(t, func() bool { return kinds(t) == "" })
			waitFor(t, func() bool { return sh(t, `dmsetup ls | grep -c layervault- || true`) == "0" })
		})
	}
}

// What a container wrote is on the disk only encrypted. Without a vault it is found, so the search
// can find.
func TestContainerdCanary(t *testing.T) {
	const image, canary = "docker.io/library/canary:latest", "Ohshie4ohnooPhah7Eiz0ohl"
	serveContainerd(t)
	startContainerd(t, true)
	sh(t, ctr+`$ctr image import $sn "$1"`, imageTar(t, image))
	sh(t, ctr+`$ctr run $sn "$1" canary sh -c "echo $2 >/file; sync"`, image, canary)
	sh(t, `echo "$1" >/persist/in-the-clear; sync`, canary)
	found := sh(t, `find /persist -xdev -type f -print0 | xargs -0 grep -lsF -- "$1" || true`, canary)
	if found != "/persist/in-the-clear" {
		t.Errorf("found in %q", found)
	}
	sh(t, `rm /persist/in-the-clear`)
	sh(t, ctr+`$ctr container rm canary; $ctr image rm --sync "$1"`, image)
}
