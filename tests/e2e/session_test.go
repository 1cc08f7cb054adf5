//go:build guest

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSessions runs the readable scripts. They use names of their own and run
// beside each other, as the users of one engine do.
func TestSessions(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/sessions",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition:           condition,
		Setup:               setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"plainengine": func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(plain.Start(context.Background())) },
		},
	})
}

// condition: [layervault] holds when an encrypting driver is under test, [graphdriver] when the
// engine has graph drivers.
func condition(name string) (bool, error) {
	switch name {
	case "layervault":
		return encrypted(), nil
	case "graphdriver":
		return !docker29(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

func setup(env *testscript.Env) error {
	home := filepath.Join(env.WorkDir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	// A bind mount into a container wants the tool's real path.
	tool, err := exec.LookPath("treesum")
	if err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("TOOLS", filepath.Dir(tool))
	env.Setenv("DOCKER_HOST", mainHost)
	env.Setenv("PLAIN", plain.Host())
	env.Setenv("BUSYBOX", busyboxTar)
	env.Setenv("E2E_DRIVER", driver())
	return nil
}
