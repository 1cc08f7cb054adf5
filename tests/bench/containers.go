package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// runPair compares docker run --rm, engine against engine, warm: the image was
// used just before, as it is on a host that starts containers.
func (b *bench) runPair(ctx context.Context, what string, goal float64) error {
	run := func(host string) func(int) (float64, error) {
		return func(int) (float64, error) {
			return timed(func() error {
				_, err := dockerOn(ctx, host, "run", "--rm", "--network", "none", "debian", "true")
				return err
			})
		}
	}
	ours, other := run(b.mainHost), run(b.plainHost)
	if _, err := turns(1, ours, other); err != nil { // fills the caches
		return err
	}
	t, err := turns(b.runs, ours, other)
	if err != nil {
		return err
	}
	b.add(pair("docker run --rm", "s", what, t[0], t[1], goal, false))
	return nil
}

func dockerOn(ctx context.Context, host string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", host}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
