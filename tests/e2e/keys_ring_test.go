//go:build guest

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keySlot is a line of layervault key list --json.
type keySlot struct {
	ID, Provider, Label, State, Reason string
}

func keySlots(t *testing.T) []keySlot {
	t.Helper()
	var view struct{ Slots []keySlot }
	if err := json.Unmarshal([]byte(sh(t, "layervault key list --json")), &view); err != nil {
		t.Fatal(err)
	}
	return view.Slots
}

// slotState is the state of the slot with that label.
func slotState(t *testing.T, label string) string {
	t.Helper()
	for _, s := range keySlots(t) {
		if s.Label == label {
			return s.State
		}
	}
	t.Fatalf("there is no slot %q: %v", label, keySlots(t))
	return ""
}

// testRing lets a test change the slots of the vault as it likes, and puts one TPM slot, sealed
// to what the PCRs are then, in the place of all others afterwards. It returns the file of a
// recovery key.
func testRing(t *testing.T) (recovery string) {
	t.Helper()
	recovery = filepath.Join("/run", "e2e-"+t.Name())
	sh(t, `layervault key enroll recovery --label e2e-way-back --recovery-key-out "$1"`, recovery)
	t.Cleanup(func() {
		// Not sh: the test's context has ended.
		out, err := run(context.Background(), "bash", "-euo", "pipefail", "-c", `
			stop-docker
			rm -f /persist/vault/signed-policies.json
			old=$(layervault key list --json | jq -r '.slots[].id')
			layervault key enroll tpm --recovery-key-file "$1"
			for slot in $old; do layervault key remove --force "$slot"; done
			rm "$1"
			start-docker layervault`, "bash", recovery)
		if err != nil {
			t.Errorf("put the vault's slots back: %v\n%s", err, out)
		}
	})
	return recovery
}

// keepSlots removes every slot but those with these labels, and the way back.
func keepSlots(t *testing.T, labels ...string) {
	t.Helper()
	keep := " e2e-way-back " + strings.Join(labels, " ") + " "
	for _, s := range keySlots(t) {
		if s.Label == "" || !strings.Contains(keep, " "+s.Label+" ") {
			sh(t, `layervault key remove --force --recovery-key-file "$2" "$1"`, s.ID, filepath.Join("/run", "e2e-"+t.Name()))
		}
	}
}

// secretFile makes a file as the command line wants secrets: for its owner alone.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// setPlugin changes settings of the plugin, as people do: through an engine that does not
// need it. The engine under test is stopped before and afterwards.
func setPlugin(t *testing.T, settings ...string) {
	t.Helper()
	sh(t, `start-docker overlay2; docker plugin disable -f layervault >/dev/null; docker plugin set layervault "$@"
		docker plugin enable --timeout 0 layervault >/dev/null; stop-docker`, settings...)
}

// works expects a container to run.
func works(t *testing.T) {
	t.Helper()
	if got := docker(t, "run", "--rm", "--network", "none", "busybox", "echo", "well"); got != "well" {
		t.Errorf("a container printed %q", got)
	}
}
