//go:build guest

package convert_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// cutEnv says what tests/e2e/layout-power-cut wants of TestPowerCut: "make" an older layout at
// /persist, or "check" one that was upgraded, with a commit after "check-commit".
const cutEnv = "LAYERVAULT_TEST_CUT"

// cutFile is what the layout was before the upgrade. It is on the disk before the upgrade begins.
const cutFile = "/persist/before.json"

// cutLayout is the content of cutFile.
type cutLayout struct {
	Want   map[string]string            `json:"want"`
	Before map[string]map[string]string `json:"before"`
}

// TestPowerCut is the part of layout-power-cut that knows the layout; by itself it has nothing to
// do.
func TestPowerCut(t *testing.T) {
	d := newDevice(t)
	d.root, d.areas = "/persist", t.TempDir()
	switch mode := os.Getenv(cutEnv); mode {
	case "make":
		must(t, os.MkdirAll("/persist/vault", 0o711))
		d.everything(120)
		sh(t, `cd /persist/downloads; chown -R 962:962 */verified */verifier; chown -R 961:961 */pending`)
		data, err := json.Marshal(cutLayout{d.want, d.before()})
		must(t, err)
		must(t, os.WriteFile(cutFile, data, 0o600))
		sh(t, `sync`)
	case "check", "check-commit":
		data, err := os.ReadFile(cutFile)
		must(t, err)
		var l cutLayout
		must(t, json.Unmarshal(data, &l))
		d.want = l.Want
		d.look()
		t.Cleanup(func() { sh(t, `for at in /run/look/*; do umount "$at"; done`) })
		d.check(l.Before, mode == "check-commit")
		if left := strings.Fields(sh(t, `find /persist/vault /persist/clear -name '.upgrade-*' 2>/dev/null || true`)); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}
