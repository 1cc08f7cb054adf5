package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// toolDirs are searched for programs, in this order. PATH is not asked: what runs as
// root on an open device is not to depend on the environment.
var toolDirs = []string{"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}

// stderrLimit bounds how much of a program's complaint goes into an error.
const stderrLimit = 400

// toolError is a program that ended with a status other than 0.
type toolError struct {
	tool string
	code int // -1 when it was killed
	text string
}

func (e *toolError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", e.tool, e.code, e.text)
}

// run runs a program of e2fsprogs to its end. A cancelled context kills it.
func run(ctx context.Context, env []string, tool string, args ...string) error {
	path, err := lookup(tool)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append([]string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &toolError{tool: tool, code: exit.ExitCode(), text: oneLine(out.String())}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

func lookup(tool string) (string, error) {
	for _, dir := range toolDirs {
		if info, err := os.Stat(dir + tool); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return dir + tool, nil
		}
	}
	return "", fmt.Errorf("%s: %w (package e2fsprogs)", tool, ErrToolMissing)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > stderrLimit {
		s = s[:stderrLimit] + "..."
	}
	return s
}
