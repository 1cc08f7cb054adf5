//go:build !race

// Each kill starts this test's binary, which takes seconds with the race detector; the
// suite kills runs these without.

package vault_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"layervault/vault/vaulttest"
)

// rotateChildEnv makes TestRotateChild rotate: FOLDER:STEP, at which it kills itself.
const rotateChildEnv = "LAYERVAULT_TEST_ROTATE"

// TestRotateChild is what TestRotateKilled starts; by itself it has nothing to do.
func TestRotateChild(t *testing.T) {
	dir, at, ok := strings.Cut(os.Getenv(rotateChildEnv), ":")
	if !ok {
		return
	}
	left, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	b := &vaulttest.Breaking{Left: left, Stop: func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }}
	if err := vaulttest.Rotate(t.Context(), dir, b); err != nil {
		t.Fatal(err)
	}
}

const rotateImages = 3

// TestRotateKilled kills a process that rotates at 50 random points (between any two
// writes or syncs, and within writes), and finishes. Every third time
// the process that finishes is killed too.
func TestRotateKilled(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, rotateImages)
	counter := &vaulttest.Breaking{}
	if err := vaulttest.Rotate(t.Context(), dir, counter); err != nil {
		t.Fatal(err)
	}
	const kills = 50
	rng := rand.New(rand.NewPCG(2026, 11))
	kill := func(at int) (died bool) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRotateChild$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%d", rotateChildEnv, dir, at))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return false
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
			return true
		}
		t.Fatalf("killed at step %d: %v: %s", at, err, out)
		return false
	}
	resumed := 0
	for i := range kills {
		old, _ := vaulttest.Open(t, dir)
		at := rng.IntN(counter.Count)
		if !kill(at) {
			t.Fatalf("step %d of %d was not reached", at, counter.Count)
		}
		if i%3 == 0 {
			kill(rng.IntN(counter.Count)) // may come to the end
		}
		key, ring := vaulttest.Open(t, dir)
		if ring.Proves(old) == nil { // it had not begun
			if ring.Rotating() {
				t.Fatalf("step %d: a rotation to the same key", at)
			}
		} else {
			resumed++
		}
		if ring.Proves(old) == nil || ring.Rotating() {
			finish(t, dir)
			key, ring = vaulttest.Open(t, dir)
		}
		if ring.Rotating() {
			t.Fatalf("step %d: not finished", at)
		}
		vaulttest.CheckImages(t, fmt.Sprintf("killed at step %d", at), dir, key, old, rotateImages)
	}
	t.Logf("killed at %d of %d steps, %d times after the ring had turned", kills, counter.Count, resumed)
}
