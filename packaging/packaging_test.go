package packaging

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"layervault/keys"
	"layervault/keys/unlock"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"docker": fakeDocker, "systemctl": fakeSystemctl})
}

// TestScripts runs install.sh and uninstall.sh below $DESTDIR, with a docker and a
// systemctl that only note what they were asked.
func TestScripts(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			// A copy of the scripts beside a plugin that only looks like one.
			for _, name := range []string{"install.sh", "uninstall.sh"} {
				data, err := os.ReadFile(filepath.Join(here, name))
				if err != nil {
					return err
				}
				if err := os.MkdirAll(filepath.Join(env.WorkDir, "src/packaging"), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, "src/packaging", name), data, 0o755); err != nil {
					return err
				}
			}
			env.Setenv("DESTDIR", filepath.Join(env.WorkDir, "host"))
			env.Setenv("CALLS", filepath.Join(env.WorkDir, "calls"))
			return os.MkdirAll(filepath.Join(env.WorkDir, "src/dist/plugin/rootfs"), 0o755)
		},
	})
}

// TestConfig checks what the engine would only say at `docker plugin create` and
// what config.json and serve must agree on.
func TestConfig(t *testing.T) {
	data, err := os.ReadFile("../config.json")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Interface struct {
			Types  []string
			Socket string
		}
		PropagatedMount string
		Linux           struct{ Capabilities []string }
		Mounts          []struct {
			Name, Source, Destination, Type string
			Settable                        []string
		}
		Env []struct {
			Name, Description string
			Value             *string
			Settable          []string
		}
	}
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	types := strings.Join(config.Interface.Types, " ")
	if config.Interface.Socket != "layervault.sock" || types != "docker.graphdriver/1.0 docker.volumedriver/1.0" {
		t.Errorf("interface is %+v", config.Interface)
	}
	// The first mounts; without the second overlayfs has no file handles, see package driver.
	if want := []string{"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}; !slices.Equal(config.Linux.Capabilities, want) {
		t.Errorf("capabilities are %v, want %v", config.Linux.Capabilities, want)
	}
	// The images must not lie there: docker plugin rm deletes it.
	for _, m := range config.Mounts {
		if m.Destination == config.PropagatedMount {
			t.Errorf("mount %s is the propagated mount", m.Name)
		}
	}
	var names []string
	for _, e := range config.Env {
		names = append(names, e.Name)
		if e.Description == "" || e.Value == nil || len(e.Settable) != 1 || e.Settable[0] != "value" {
			t.Errorf("setting %s lacks a description, a default or its settable value", e.Name)
		}
		if e.Name == "key" && *e.Value != "" {
			t.Errorf("key has the default %q", *e.Value)
		}
	}
	// The key providers say which settings they have, and their defaults.
	for _, k := range unlock.Kinds() {
		for _, f := range k.Flags {
			if f.For&(keys.ForSettings|keys.ForMaking) == 0 {
				continue
			}
			i := slices.Index(names, f.Name)
			if i < 0 {
				t.Errorf("config.json lacks the setting %s of key=%s", f.Name, k.Name)
				continue
			}
			if got := *config.Env[i].Value; got != f.Value {
				t.Errorf("setting %s has the default %q, serve has %q", f.Name, got, f.Value)
			}
			names[i] = ""
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	want := []string{"key", "anchor", "size", "volumesize", "disks", "cipher", "sector", "verity", "upgrade", "seal-committed", "loglevel"}
	if !slices.Equal(names, want) {
		t.Errorf("settings of no key provider are %v, want %v", names, want)
	}
}
