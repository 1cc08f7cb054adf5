//go:build guest

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// refused stops the engine, spoils something, and expects dockerd not to start,
// with all of parts in its log. mend runs afterwards, and the engine must be well again.
func refused(t *testing.T, spoil, mend func(), parts ...string) {
	t.Helper()
	stop(t)
	spoil()
	out, err := tryStart(t)
	if err == nil {
		t.Errorf("dockerd started with a vault that does not open")
		stop(t)
	}
	contains(t, "dockerd's log", out, parts...)
	mend()
	start(t)
	if got := docker(t, "run", "--rm", "--network", "none", "busybox", "echo", "well"); got != "well" {
		t.Errorf("a container printed %q", got)
	}
}

// A key ring cut short is read from its backup; with both cut the vault stays shut
// and both stay as they are.
func TestKeyRingCutShort(t *testing.T) {
	if !encrypted() {
		return
	}
	ring := vault + "/keyring.json"
	whole, err := os.ReadFile(ring)
	if err != nil {
		t.Fatal(err)
	}
	cut := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop(t)
	cut(ring)
	start(t) // from the backup
	docker(t, "run", "--rm", "--network", "none", "busybox", "true")

	refused(t, func() { cut(ring); cut(ring + ".bak") }, func() {
		for _, path := range []string{ring, ring + ".bak"} {
			if now, err := os.ReadFile(path); err != nil || string(now) != string(whole[:len(whole)/2]) {
				t.Errorf("%s was changed: %v", path, err)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}, "key ring", ring, "restore")

	// a ring that is gone is no reason to make a new one: the images need the old
	refused(t, func() {
		for _, path := range []string{ring, ring + ".bak"} {
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
		}
	}, func() {
		for _, path := range []string{ring, ring + ".bak"} {
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
		}
	}, "key ring", "missing", "restore")
}

// Without its TPM the vault stays shut and says so.
func TestNoTPM(t *testing.T) {
	if !encrypted() {
		return
	}
	// The node is what the plugin looks for, in the /dev it shares with the host. (Unbinding
	// the driver does the same, but an emulated CRB device does not come back from it.)
	const node, hidden = "/dev/tpmrm0", "/dev/tpmrm0.hidden"
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Rename(hidden, node) }) // not there unless the test broke off
	refused(t, func() { move(node, hidden) }, func() { move(hidden, node) }, "tpm", "layervault key recover")
}

// A PCR that changed is named with its old and its new value and the command that
// opens the vault again; the recovery key does.
//
// A PCR cannot be set back without a reboot, so what follows runs on the vault that
// was sealed anew.
func TestChangedPCR(t *testing.T) {
	if !encrypted() {
		return
	}
	key := "/run/e2e-recovery"
	t.Cleanup(func() { _ = os.Remove(key) })
	sh(t, `layervault key enroll recovery --label e2e --recovery-key-out "$1"`, key)
	const read = `tpm2_pcrread sha256:7 | sed -n 's/.*0x//p'`
	old := strings.ToLower(sh(t, read))
	now := ""
	refused(t, func() {
		sh(t, `tpm2_pcrextend "7:sha256=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')"`)
		now = strings.ToLower(sh(t, read))
	}, func() {
		// the command line says the same, and a wrong key opens nothing
		out, err := trySh(t, `layervault key list`)
		if err != nil {
			t.Errorf("key list: %v\n%s", err, out)
		}
		contains(t, "key list", out, "fails", old, now)
		if out, err := trySh(t, `head -c 30 /dev/urandom | base64 | layervault key recover --recovery-key-file -`); err == nil {
			t.Errorf("a wrong recovery key was taken:\n%s", out)
		}
		contains(t, "key recover", sh(t, `layervault key recover --recovery-key-file "$1"`, key), old, now, "resealed")
	}, "PCR 7", "layervault key recover")
	// refused saw the words; the values are checked here, since they exist only now
	log := sh(t, `tail -n 400 "$1"`, dockerLog)
	contains(t, "dockerd's log", log, old, now)
	contains(t, "key list", sh(t, `layervault key list`), "opens")
	sh(t, `layervault key remove --force "$(layervault key list --json | jq -r '.slots[] | select(.label == "e2e") | .id')"`)
}

// A plugin that nobody named a key provider for, or whose key file others can
// read, opens nothing and says what to do. It never takes an empty key.
func TestKeyProviderRefusals(t *testing.T) {
	if !encrypted() {
		return
	}
	for name, c := range map[string]struct {
		key     string
		prepare func(root string)
		parts   []string
	}{
		"no provider":      {"", func(string) {}, []string{"no key provider", "key=tpm"}},
		"unknown provider": {"rot13", func(string) {}, []string{"unknown key provider", "rot13"}},
		"key file that others can read": {"versatile", func(root string) {
			s := serve(t, root, "versatile")
			if out := s.init(t); !strings.Contains(out, "{") || strings.Contains(out, "Err") {
				t.Errorf("Init with a private key file: %s", out)
			}
			s.stop(t)
			if err := os.Chmod(root+"/versatile.key", 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"versatile.key", "0644", "chmod"}},
		"key file that is gone": {"versatile", func(root string) {
			s := serve(t, root, "versatile")
			s.init(t)
			s.stop(t)
			if err := os.Remove(root + "/versatile.key"); err != nil {
				t.Fatal(err)
			}
		}, []string{"versatile.key"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			c.prepare(root)
			s := serve(t, root, c.key)
			defer s.stop(t)
			out := s.init(t)
			contains(t, "Init", out, append(c.parts, "Err")...)
			if made, err := filepath.Glob(root + "/vault/layers/[^.]*"); err != nil || len(made) > 0 {
				t.Errorf("a locked vault has layers: %v %v", made, err)
			}
		})
	}
}

// unmanaged is a plugin that runs by itself, on a vault of its own.
type unmanaged struct {
	cmd    *exec.Cmd
	socket string
}

func serve(t *testing.T, root, key string) *unmanaged {
	t.Helper()
	return serveAt(t, root, key, filepath.Join(root, "s.sock"))
}

func serveAt(t *testing.T, root, key, socket string) *unmanaged {
	t.Helper()
	s := &unmanaged{socket: socket}
	s.cmd = exec.Command("layervault", "--persist", root, "serve", "--key", key, "--socket", s.socket)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { _, err := os.Stat(s.socket); return err == nil, nil }); err != nil {
		t.Fatalf("layervault serve does not listen: %v", err)
	}
	return s
}

// init sends Init and returns the answer's body.
func (s *unmanaged) init(t *testing.T) string {
	t.Helper()
	return s.post(t, "GraphDriver.Init", `{"Home":"/run/e2e-home/h"}`)
}

// post sends a request, as dockerd does, and returns the answer's body.
func (s *unmanaged) post(t *testing.T, method, body string) string {
	t.Helper()
	out, err := try(t, "curl", "-s", "--max-time", "60", "--unix-socket", s.socket, "-d", body, "http://plugin/"+method)
	if err != nil {
		t.Fatalf("%s: %v\n%s", method, err, out)
	}
	return out
}

func (s *unmanaged) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("layervault serve ended with %v", err)
	}
}
