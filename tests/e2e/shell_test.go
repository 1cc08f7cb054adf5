//go:build guest

package e2e

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// callTime bounds one command. dockerd itself gives up on a plugin after 30 s and
// an emulated machine is slow; what takes longer than this hangs.
const callTime = 5 * time.Minute

// docker runs the client against the engine under test and returns what it
// printed, without the last newline.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryDocker(t, args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// tryDocker is docker for what may fail; the error's text is in the output.
func tryDocker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return try(t, "docker", args...)
}

// sh runs a script with bash and returns what it printed.
func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := trySh(t, script, args...)
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

func trySh(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	return try(t, "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
}

func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	return run(ctx, name, args...)
}

// run is one command until its end. A daemon that it starts may keep its pipes
// open, so they are not waited for after it ended.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	return strings.TrimRight(out.String(), "\n"), err
}

// contains fails the test unless text holds every one of parts, whatever the case.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(p)) {
			t.Errorf("%s does not say %q:\n%s", what, p, text)
		}
	}
}

// noLeaks runs leakcheck; see there for what --empty adds.
func noLeaks(t *testing.T, flags ...string) {
	t.Helper()
	if out, err := try(t, "./leakcheck", flags...); err != nil {
		t.Errorf("%s", out)
	}
}

// treeOf is what a container of the image sees, one line a file, less what docker
// mounts or makes in each container.
func treeOf(t *testing.T, image string) string {
	t.Helper()
	tool, err := exec.LookPath("treesum")
	if err != nil {
		t.Fatal(err)
	}
	out := docker(t, "run", "--rm", "--network", "none", "--volume", tool+":/treesum:ro", image, "/treesum", "/")
	var keep []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, `"etc/`) && !strings.HasSuffix(line, "\".\"\n") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

// sameTree fails the test, with the first lines that differ, unless the trees are equal.
func sameTree(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Errorf("%s changed:\nwas %s\nis  %s", what, w[i], g[i])
			return
		}
	}
	t.Errorf("%s changed: %d files were, %d are", what, len(w), len(g))
}
