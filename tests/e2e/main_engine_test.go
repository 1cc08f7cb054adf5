//go:build guest

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	dockerRoot = "/persist/docker"
	dockerLog  = "/var/log/dockerd.log"
	vault      = "/persist/vault"
)

// restart stops the engine under test as a shutdown does and starts it again.
// Without flags it is as before.
func restart(t *testing.T, flags ...string) {
	t.Helper()
	stop(t)
	start(t, flags...)
}

func start(t *testing.T, flags ...string) {
	t.Helper()
	if out, err := tryStart(t, flags...); err != nil {
		t.Fatalf("start-docker %s: %v\n%s", strings.Join(flags, " "), err, out)
	}
}

// tryStart is start for what may fail: the output ends with dockerd's log.
func tryStart(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	return try(t, "start-docker", append([]string{driver()}, flags...)...)
}

// stop ends the engine as a shutdown does. However the test ends, the next one
// finds an engine: start-docker does nothing when one runs.
func stop(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := run(context.Background(), "start-docker", driver()); err != nil {
			t.Errorf("start the engine for the next test: %v\n%s", err, out)
		}
	})
	if out, err := try(t, "stop-docker"); err != nil {
		t.Fatalf("stop-docker: %v\n%s", err, out)
	}
}

// pluginPID is the process that serves the graph driver: layervault serve.
func pluginPID() (int, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, name := range entries {
		line, err := os.ReadFile(name)
		if err != nil {
			continue // it ended meanwhile
		}
		args := strings.Split(string(line), "\x00")
		if len(args) >= 2 && filepath.Base(args[0]) == "layervault" && args[1] == "serve" {
			return strconv.Atoi(filepath.Base(filepath.Dir(name)))
		}
	}
	return 0, os.ErrNotExist
}

// killPlugin kills the plugin outright and waits until dockerd works with another
// one. dockerd tries a plugin's socket at most four times in ten seconds after each
// start and then gives it up for good, so a storm of kills that never lets it see
// the socket would test dockerd, not the plugin.
func killPlugin(ctx context.Context) error {
	old, err := pluginPID()
	if err != nil {
		return fmt.Errorf("find the plugin: %w", err)
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the plugin: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		if pid, err := pluginPID(); err != nil || pid == old {
			return false, nil
		}
		rows, err := run(ctx, "docker", "info", "--format", "{{.DriverStatus}}")
		return err == nil && strings.Contains(rows, "unlocked"), nil
	})
	if err != nil {
		return fmt.Errorf("dockerd does not work with a plugin again: %w", err)
	}
	return nil
}

// imageFile is the encrypted image of an image's topmost layer, as docker inspect tells it.
func imageFile(t *testing.T, image string) string {
	t.Helper()
	path := docker(t, "image", "inspect", "--format", `{{index .GraphDriver.Data "ImagePath"}}`, image)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the image of %s: %v", image, err)
	}
	return path
}
