//go:build guest

package e2e

import (
	"strings"
	"testing"
)

// A slot that wants a PIN at each start: without it the engine does not come up and says why;
// wrong PINs are told and run the TPM into its lockout, which is told too; the right one in the
// plugin's settings opens the vault.
func TestKeysPIN(t *testing.T) {
	if !encrypted() {
		return
	}
	recovery := testRing(t)
	right, wrong := secretFile(t, "correct horse"), secretFile(t, "wrong horse")
	sh(t, `layervault key enroll tpm --label pin --pin="$1"`, right)
	keepSlots(t, "pin")
	refused(t, func() {}, func() {
		// five tries, as on a small chip
		sh(t, `tpm2_dictionarylockout --setup-parameters --max-tries=5 --recovery-time=3600 --lockout-recovery-time=3600`)
		status := func(file string) string {
			out, _ := trySh(t, `status=0; layervault key enroll versatile --pin-file "$1" 2>&1 || status=$?; echo "status $status"`, file)
			return out
		}
		for range 5 {
			contains(t, "a wrong PIN", status(wrong), "wrong PIN", "status 3")
		}
		contains(t, "the sixth try", status(wrong), "lockout", "5 of 5", "1h0m0s", "hint: wait until the lockout ends", "status 3")
		contains(t, "the right PIN in lockout", status(right), "lockout", "status 3")
		if got := len(keySlots(t)); got != 2 {
			t.Errorf("a slot was made without unlocking: %d slots", got)
		}
		// the recovery key helps meanwhile; and a person who owns the TPM ends the lockout
		sh(t, `layervault key enroll versatile --label meanwhile --recovery-key-file "$1"; layervault key remove --recovery-key-file "$1" "$(layervault key list --json | jq -r '.slots[] | select(.label == "meanwhile") | .id')"
			tpm2_dictionarylockout --clear-lockout`, recovery)
		contains(t, "the right PIN", status(right), "enrolled", "status 0")
		sh(t, `layervault key remove --recovery-key-file "$1" "$(layervault key list --json | jq -r '.slots[] | select(.provider == "versatile") | .id')"`, recovery)

		// the setting: a file that something puts there before each start
		sh(t, `install -m 0600 "$1" /persist/e2e-pin`, right)
		setPlugin(t, "pin-file=/persist/e2e-pin")
	}, "needs a PIN", "layervault key recover")
	if got := slotState(t, "pin"); got != "needs a person" {
		t.Errorf("without the setting of the plugin the slot %s", got)
	}
	stop(t)
	sh(t, `rm /persist/e2e-pin`)
	setPlugin(t, "pin-file=")
	if out, err := tryStart(t); err == nil || !strings.Contains(out, "PIN") {
		t.Errorf("without the file, the engine started: %v\n%s", err, out)
	}
	sh(t, `layervault key enroll tpm --label after --recovery-key-file "$1"`, recovery)
	start(t)
	works(t)
}
