//go:build guest

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dockerd ends when the vault of its layers is locked, and its plugin with it: so the key
// waits for the plugin, and not the other way round.
func TestKeysUnlockWaits(t *testing.T) {
	if !encrypted() {
		return
	}
	testRing(t)
	pin := secretFile(t, "correct horse")
	sh(t, `layervault key enroll tpm --label pin --pin="$1"`, pin)
	keepSlots(t, "pin")
	refused(t, func() {}, func() {
		if out, err := trySh(t, `layervault key unlock --pin-file "$1"`, pin); err == nil {
			t.Errorf("a key was handed to nobody:\n%s", out)
		}
		giver := exec.Command("layervault", "key", "unlock", "--wait", "--pin-file", pin)
		giver.Stderr = os.Stderr
		if err := giver.Start(); err != nil {
			t.Fatal(err)
		}
		offered(t)
		t.Cleanup(func() { _ = giver.Process.Kill() })
		start(t)
		done := make(chan error, 1)
		go func() { done <- giver.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("key unlock --wait: %v", err)
			}
		case <-time.After(startTime):
			t.Fatal("the key was not taken")
		}
	}, "needs a PIN")
	if got := slotState(t, "pin"); got != "needs a person" {
		t.Errorf("the slot %s", got)
	}
	noLeaks(t)
}

// offered waits until key unlock --wait can be found.
func offered(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { _, err := os.Stat(vault + "/offer.sock"); return err == nil, nil }); err != nil {
		t.Fatalf("key unlock --wait does not offer its key: %v", err)
	}
}

// A plugin that runs as a service of the host outlives the dockerd that could not start: it
// is unlocked, and dockerd started again, with one and the same process.
func TestKeysUnlockService(t *testing.T) {
	if !encrypted() {
		return
	}
	const name = "e2elayervault"
	root := "/persist/e2e-service"
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	paper := filepath.Join(t.TempDir(), "paper")
	sh(t, `mkdir -m 0700 "$1"; layervault --persist "$1" key enroll versatile; layervault --persist "$1" key enroll --key versatile recovery --recovery-key-out "$2"
		layervault --persist "$1" volume create --key versatile -o clear=true plain
		mv "$1/versatile.key" "$1/away.key"; mkdir -p /run/docker/plugins`, root, paper)
	s := serveAt(t, root, "versatile", "/run/docker/plugins/"+name+".sock")
	stopped := false
	defer func() {
		if !stopped {
			s.stop(t)
		}
	}()
	second := &engine{name: "service", root: root + "-docker", driver: name}
	t.Cleanup(func() { _ = os.RemoveAll(second.root) })
	if err := second.Start(t.Context()); err == nil {
		_ = second.Stop(context.Background())
		t.Fatal("dockerd started on a locked vault")
	} else {
		contains(t, "dockerd's log", err.Error(), "tier is locked", "no key file", "layervault key recover")
	}
	// what needs no key of the vault works meanwhile, and what does is told why not
	for _, method := range []string{"Mount", "Unmount"} {
		if out := s.post(t, "VolumeDriver."+method, `{"Name":"plain","ID":"e2e"}`); strings.Contains(out, "Err") {
			t.Errorf("%s of a volume of the clear tier beside a locked vault: %s", method, out)
		}
	}
	// the vault's list of volumes has those of the clear tier too, and only its key writes there
	for _, method := range []string{"Create", "Remove"} {
		name := map[string]string{"Create": "later", "Remove": "plain"}[method]
		contains(t, method+" of a volume of the clear tier", s.post(t, "VolumeDriver."+method, `{"Name":"`+name+`","Opts":{"tier":"clear"}}`), "authenticated by the vault", "tier is locked")
	}
	contains(t, "the making of a volume of the vault", s.post(t, "VolumeDriver.Create", `{"Name":"shut"}`), "tier is locked", "no key file")

	contains(t, "key unlock", sh(t, `layervault --persist "$1" key unlock --recovery-key-file "$2"`, root, paper), "gave the key of slot")
	if err := second.Start(t.Context()); err != nil {
		t.Fatalf("dockerd does not start on the unlocked vault: %v", err)
	}
	onSecond := func(args ...string) string {
		t.Helper()
		out, err := run(t.Context(), "docker", append([]string{"-H", second.Host()}, args...)...)
		if err != nil {
			t.Errorf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	for _, method := range []string{"Create", "Remove"} {
		if out := s.post(t, "VolumeDriver."+method, `{"Name":"shut"}`); strings.Contains(out, "Err") {
			t.Errorf("%s of a volume of the unlocked vault: %s", method, out)
		}
	}
	if out := s.post(t, "VolumeDriver.Remove", `{"Name":"plain"}`); strings.Contains(out, "Err") {
		t.Errorf("removal of a volume of the clear tier: %s", out)
	}
	onSecond("import", busyboxTar, "busybox")
	if got := onSecond("run", "--rm", "--network", "none", "busybox", "echo", "well"); got != "well" {
		t.Errorf("a container printed %q", got)
	}
	if err := second.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	stopped = true
	s.stop(t) // checks that it is the process that was started, and well
}
