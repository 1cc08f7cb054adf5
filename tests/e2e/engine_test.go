//go:build guest

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTime is what an emulated machine gets to bring an engine up; a native one
// takes two seconds.
const startTime = 3 * time.Minute

// What tests/guest gives: the engine under test, and the tree that the image
// busybox is imported from.
const (
	mainHost   = "unix:///var/run/docker.sock"
	busyboxTar = "/usr/share/layervault-guest/busybox.tar"
)

// engine is a dockerd of the tests' own, beside the one that start-docker runs.
type engine struct {
	name   string
	root   string // data-root
	driver string // storage driver; "" for overlay2, or overlayfs in Docker 29
	// program is dockerd; "" for that of the engine under test.
	program string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// plain is the second engine, on overlay2: where an image must come out the same.
// Its data lies on the guest's disk.
var plain = &engine{name: "plain", root: "/persist/e2e-plain"}

func (e *engine) run() string { return filepath.Join("/run/e2e", e.name) }

// Host is the value for DOCKER_HOST.
func (e *engine) Host() string { return "unix://" + e.run() + "/docker.sock" }

func (e *engine) log() string { return e.run() + "/dockerd.log" }

// Start brings the engine up on its driver and waits until it answers. It does
// nothing when the engine runs.
func (e *engine) Start(ctx context.Context, flags ...string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cmd != nil {
		return nil
	}
	if err := os.MkdirAll(e.run()+"/tmp", 0o700); err != nil {
		return err
	}
	log, err := os.Create(e.log())
	if err != nil {
		return err
	}
	defer log.Close()
	storage := "overlay2"
	if docker29() {
		settings := "{}"
		if e.program == "" {
			storage = "overlayfs" // containerd's
			settings = `{"features": {"time-namespaces": false}}`
		}
		// Not the file of the engine under test; see start-docker29 for the namespaces.
		file := filepath.Join(e.run(), "daemon.json")
		if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
			return err
		}
		flags = append([]string{"--config-file", file}, flags...)
	}
	args := append([]string{"--experimental", "--storage-driver", cmp.Or(e.driver, storage), "--bridge", "none", "--iptables=false", "--ip6tables=false",
		"--data-root", e.root, "--exec-root", e.run() + "/exec", "--pidfile", e.run() + "/dockerd.pid", "--host", e.Host(),
		// the containerd of the engine under test serves this one too: each keeps to its own containers
		"--containerd-namespace", e.name, "--containerd-plugins-namespace", e.name + "-plugins"}, flags...)
	cmd := exec.Command(cmp.Or(e.program, "dockerd"), args...)
	cmd.Env = append(os.Environ(), "DOCKER_TMPDIR="+e.run()+"/tmp")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		select {
		case <-done:
			return false, fmt.Errorf("dockerd %s ended: %s", e.name, tail(e.log()))
		default:
		}
		return dockerOn(e.Host(), "version") == nil, nil
	})
	if err != nil {
		_ = cmd.Process.Kill()
		<-done
		return err
	}
	e.cmd, e.done = cmd, done
	return nil
}

// Stop ends the engine as a shutdown does.
func (e *engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cmd == nil {
		return nil
	}
	cmd, done := e.cmd, e.done
	e.cmd, e.done = nil, nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-done
		return ctx.Err()
	case <-time.After(startTime):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("dockerd %s did not stop: %s", e.name, tail(e.log()))
	}
}

// poll calls check until it says done, fails, or ctx ends. The pause is only
// there to leave the processor to what is waited for.
func poll(ctx context.Context, check func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := check()
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func dockerOn(host string, args ...string) error {
	cmd := exec.Command("docker", append([]string{"-H", host}, args...)...)
	return cmd.Run()
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(b, nil))), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
