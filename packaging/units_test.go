package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// values are the words of a key of a unit, of all its lines.
func values(text, key string) (words []string) {
	for line := range strings.Lines(text) {
		if value, is := strings.CutPrefix(strings.TrimSpace(line), key+"="); is {
			words = append(words, strings.Fields(value)...)
		}
	}
	return words
}

func unit(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestOrder: the areas are there before all that could use them, and what cannot do without them
// does not start without them.
func TestOrder(t *testing.T) {
	text, upgrade := unit(t, "layervault-persist.service"), unit(t, "layervault-persist-upgrade.service")
	for _, later := range []string{"layervault.service", "layervault.socket", "layervault-volumes.service", "containerd.service", "docker.service", "docker.socket"} {
		if !slices.Contains(values(text, "Before"), later) {
			t.Errorf("the areas are not opened before %s", later)
		}
		if !slices.Contains(values(upgrade, "Before"), later) {
			t.Errorf("the older layout is not upgraded before %s", later)
		}
	}
	if !slices.Contains(values(upgrade, "After"), "layervault-persist.service") {
		t.Error("the older layout is upgraded before the areas are open")
	}
	if !slices.Contains(values(text, "RequiredBy"), "containerd.service") {
		t.Error("containerd starts without the areas")
	}
	for _, key := range []string{"FailureAction", "StartLimitAction", "Restart"} {
		if strings.Contains(text, key+"=") {
			t.Errorf("a vault that does not open leads to %s", key)
		}
	}
	if !slices.Contains(values(unit(t, "layervault-persist-watch.service"), "After"), "layervault-persist.service") {
		t.Error("the areas are watched before they are open")
	}
}

// TestVerify asks systemd what it thinks of the units, where it is installed. The program is not:
// another one stands for it.
func TestVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed")
		return
	}
	dir := t.TempDir()
	var names []string
	for _, pattern := range []string{"*.service", "*.socket"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			text := strings.ReplaceAll(unit(t, name), "/usr/local/bin/layervault", "/bin/true")
			name = strings.Replace(name, "@.", "@data.", 1)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			names = append(names, filepath.Join(dir, name))
		}
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, names...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) || strings.Contains(line, "layervault") || strings.Contains(line, "cycle") {
			t.Error(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Logf("%v\n%s", err, out)
	}
}
