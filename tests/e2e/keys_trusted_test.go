//go:build guest

package e2e

import (
	"context"
	"testing"
)

// A vault under a key of the kernel's, through the managed plugin: it has a session keyring
// of its own and finds the master key in root's. (Debian's kernel has encrypted keys; trusted
// ones take the same way in the tests of keys/trusted.)
func TestKeysTrusted(t *testing.T) {
	if !encrypted() {
		return
	}
	// A key under a user key is of software alone: it opens the vault where the setting says so.
	t.Cleanup(func() {
		if out, err := run(context.Background(), "bash", "-euo", "pipefail", "-c", `stop-docker
			start-docker overlay2; docker plugin disable -f layervault; docker plugin set layervault key=tpm; docker plugin enable --timeout 0 layervault; stop-docker
			start-docker layervault`); err != nil {
			t.Errorf("take the setting back: %v\n%s", err, out)
		}
	})
	testRing(t)
	const master = `head -c 32 /run/e2e-master | keyctl padd user e2e-master @u >/dev/null`
	sh(t, `head -c 32 /dev/urandom > /run/e2e-master; `+master)
	t.Cleanup(func() {
		_, _ = run(context.Background(), "bash", "-c", `keyctl purge user e2e-master; rm -f /run/e2e-master`)
	})
	sh(t, `layervault key enroll trusted --source encrypted:user:e2e-master --label kernel`)
	keepSlots(t, "kernel")
	refused(t, func() {}, func() { setPlugin(t, "key=trusted") }, "weaker than the settings require", "key=trusted")
	works(t)
	memoryLocked(t, vaultKeys(t, imageFile(t, "busybox"))) // as in TestKeysOutOfSight, whose vault a TPM opens
	contains(t, "docker info", docker(t, "info", "--format", "{{.DriverStatus}}"), "trusted")
	refused(t, func() {
		sh(t, `keyctl purge user e2e-master >/dev/null`)
	}, func() {
		sh(t, master)
	}, "master key user:e2e-master is not in", "layervault key recover")
	if got := slotState(t, "kernel"); got != "opens" {
		t.Errorf("the slot %s", got)
	}
	if out := sh(t, `dmsetup ls | grep layervault-key || true; grep layervault: /proc/keys || true`); out != "" {
		t.Errorf("left in the kernel:\n%s", out)
	}
	noLeaks(t)
}
