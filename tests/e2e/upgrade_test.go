//go:build guest

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"layervault/vault/vaulttest"
)

// These tests begin without a dockerd (GUEST_BARE): what is asked here is what dockerd asks.

const upgradeSocket = "/run/docker/plugins/layervault.sock"

// mustAsk asks a plugin that serves on its usual socket. The answer's Err is an error.
func mustAsk(t *testing.T, method string, request any) map[string]any {
	t.Helper()
	answer, err := askDoor(t.Context(), method, request)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return answer
}

func askDoor(ctx context.Context, method string, request any) (map[string]any, error) {
	body, ok := request.([]byte)
	if !ok {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return nil, err
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", upgradeSocket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer := map[string]any{}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if text, _ := answer["Err"].(string); text != "" {
		return answer, fmt.Errorf("answered: %s", text)
	}
	return answer, nil
}

// serveBoth starts layervault serve; stop ends it as docker does.
func serveBoth(t *testing.T, more ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command("layervault", append([]string{"serve", "--key", "versatile"}, more...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the plugin ended with %v", err)
		}
	}
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) {
		_, err := askDoor(ctx, "Plugin.Activate", struct{}{})
		return err == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	return stop
}

// readIn reads a file of a layer that it mounts and unmounts.
func readIn(t *testing.T, id, file string) string {
	t.Helper()
	dir, _ := mustAsk(t, "GraphDriver.Get", map[string]string{"ID": id})["Dir"].(string)
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Error(err)
	}
	mustAsk(t, "GraphDriver.Put", map[string]string{"ID": id})
	return strings.TrimSpace(string(data))
}

// formats is what layervault status says of formats.
func formats(t *testing.T) (f struct {
	Floor      int `json:"floor"`
	Images     int `json:"images"`
	OldImages  int `json:"old_images"`
	OldRecords int `json:"old_records"`
}) {
	t.Helper()
	out := sh(t, `layervault --json status --key versatile`)
	var st struct{ Formats any }
	st.Formats = &f
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return f
}

// A plugin starts on a /persist of format 1: what was there is used while it is upgraded, a
// layer that is mounted meanwhile included; new ones are made; afterwards all is of format 2,
// and an image of format 1 that is put back is refused.
func TestUpgrade(t *testing.T) {
	sh(t, `rm -rf /persist/* && mkdir -p /persist /run/upgrade-home`)
	if err := vaulttest.Unpack("/persist"); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "top.luks")
	sh(t, `cp --sparse=always /persist/vault/layers/top/image.luks "$1"`, old)

	// Told not to, the plugin leaves it as it is, and everything works.
	stop := serveBoth(t, "--upgrade", "off")
	mustAsk(t, "GraphDriver.Init", map[string]any{"Home": "/run/upgrade-home", "Opts": []string{}})
	if got := readIn(t, "c", "c"); got != "written in a container" {
		t.Errorf("layer c has %q", got)
	}
	if f := formats(t); f.Floor != 1 || f.OldImages != vaulttest.VaultImages+vaulttest.UnsealedImages {
		t.Errorf("with upgrade=off: %+v", f)
	}
	stop()

	// A container keeps a layer, and a volume, open all the while.
	stop = serveBoth(t)
	home := map[string]any{"Home": "/run/upgrade-home", "Opts": []string{}}
	mustAsk(t, "GraphDriver.Init", home)
	dir, _ := mustAsk(t, "GraphDriver.Get", map[string]string{"ID": "c"})["Dir"].(string)
	volume, _ := mustAsk(t, "VolumeDriver.Mount", map[string]string{"Name": "sealed", "ID": "m"})["Mountpoint"].(string)
	appendLine := func(file string) {
		t.Helper()
		sh(t, `echo more >> "$1"; sync -f "$1"`, file)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) {
		appendLine(filepath.Join(dir, "c"))
		appendLine(filepath.Join(volume, "file"))
		f := formats(t)
		return f.Floor == 2, nil
	}); err != nil {
		t.Fatalf("not upgraded: %v", err)
	}
	if f := formats(t); f.OldImages != 0 || f.OldRecords != 0 {
		t.Errorf("after the upgrade: %+v", f)
	}
	contains(t, "status", sh(t, `layervault status --key versatile`), "2, format 1 is refused")
	for file, begins := range map[string]string{filepath.Join(dir, "c"): "written in a container\nmore", filepath.Join(volume, "file"): "content of sealed\nmore"} {
		if data, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(data), begins) {
			t.Errorf("%s: %q, %v", file, data, err)
		}
	}
	mustAsk(t, "GraphDriver.Put", map[string]string{"ID": "c"})
	mustAsk(t, "VolumeDriver.Unmount", map[string]string{"Name": "sealed", "ID": "m"})

	// New layers upon old ones, and what the old ones hold, in this run and the next.
	mustAsk(t, "GraphDriver.Create", map[string]string{"ID": "new", "Parent": "top"})
	mustAsk(t, "GraphDriver.ApplyDiff?id=new&parent=top", oneFile(t, "n", "new"))
	for range 2 {
		for _, in := range []struct{ id, file, want string }{{"new", "n", "new"}, {"new", "b", "top"}, {"new", "a", "base"}, {"top", "b", "top"}, {"base", "b", "base"}} {
			if got := readIn(t, in.id, in.file); got != in.want {
				t.Errorf("%s in layer %s: %q", in.file, in.id, got)
			}
		}
		for _, name := range []string{"sealed", "early", "open"} {
			at, _ := mustAsk(t, "VolumeDriver.Mount", map[string]string{"Name": name, "ID": "m"})["Mountpoint"].(string)
			if data, err := os.ReadFile(filepath.Join(at, "file")); err != nil || !strings.HasPrefix(string(data), "content of "+name) {
				t.Errorf("volume %s: %q, %v", name, data, err)
			}
			mustAsk(t, "VolumeDriver.Unmount", map[string]string{"Name": name, "ID": "m"})
		}
		stop()
		stop = serveBoth(t)
		mustAsk(t, "GraphDriver.Init", home)
	}

	// The image as it was, with its old key slot: the key opens it, the tier refuses it.
	stop()
	sh(t, `cp --sparse=always "$1" /persist/vault/layers/top/image.luks`, old)
	stop = serveBoth(t)
	mustAsk(t, "GraphDriver.Init", home)
	_, err := askDoor(t.Context(), "GraphDriver.Get", map[string]string{"ID": "top"})
	if err == nil || !strings.Contains(err.Error(), "format 1, minimum is 2") {
		t.Errorf("an image of format 1 was put back: %v", err)
	}
	stop()
	contains(t, "status", sh(t, `layervault status --key versatile`), "refused: 1 of")
	sh(t, `layervault image adopt --key versatile --yes top`)
	serveBoth(t)
	mustAsk(t, "GraphDriver.Init", home)
	if got := readIn(t, "top", "b"); got != "top" {
		t.Errorf("after its adoption layer top has %q", got)
	}
}

// A service with the doors for containerd alone upgrades the vault too, its volumes included.
func TestUpgradeContainerd(t *testing.T) {
	sh(t, `rm -rf /persist/* && mkdir -p /persist`)
	if err := vaulttest.Unpack("/persist"); err != nil {
		t.Fatal(err)
	}
	off := serveContainerd(t, "--upgrade", "off")
	if f := formats(t); f.Floor != 1 {
		t.Errorf("with upgrade=off: %+v", f)
	}
	off.kill()
	serveContainerd(t)
	waitFor(t, func() bool { return formats(t).Floor == 2 })
	if f := formats(t); f.OldImages != 0 || f.OldRecords != 0 || f.Images != vaulttest.VaultImages+vaulttest.UnsealedImages {
		t.Errorf("after the upgrade: %+v", f)
	}
}

func oneFile(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
