package layertest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Tests of kills run their own binary once more, as a helper that works on a store until it is
// killed. The environment says where, and at which checkpoint ("op/step") the helper kills
// itself, or "" for none.
const (
	envDir  = "LAYERVAULT_KILL_DIR"
	envKill = "LAYERVAULT_KILL_AT"
)

// anyMoment before a number of rounds stands for no checkpoint.
const anyMoment = "after rounds "

// Helper is the folder in which this process works until it is killed, "" if it is none.
func Helper() string { return os.Getenv(envDir) }

// HelperCheckpoint kills the helper at its checkpoint. It is for layer.Config.
func HelperCheckpoint(op, _, step string) error {
	if op+"/"+step == os.Getenv(envKill) {
		return syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	}
	return nil
}

// HelperRound is called by the helper after each round of its work, in which it reaches every
// checkpoint.
func HelperRound(round int) error {
	fmt.Println("round")
	if kill := os.Getenv(envKill); kill != "" && round > 0 {
		return errors.New("the checkpoint was never reached: " + kill)
	}
	return nil
}

// Kills are moments to kill a helper: checkpoints of the store, and after some rounds whatever it
// is doing.
func Kills(checkpoints ...string) []string {
	for _, rounds := range []int{2, 5, 9} {
		checkpoints = append(checkpoints, anyMoment+strconv.Itoa(rounds))
	}
	return checkpoints
}

// KillHelper starts a helper that works in a folder, and waits until it is killed.
func KillHelper(t *testing.T, dir, kill string, stdin []byte) {
	t.Helper()
	rounds := 0
	if after, any := strings.CutPrefix(kill, anyMoment); any {
		var err error
		if rounds, err = strconv.Atoi(after); err != nil {
			t.Fatal(err)
		}
		kill = ""
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(os.Environ(), envDir+"="+dir, envKill+"="+kill)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); rounds-- {
		if kill == "" && rounds <= 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			break
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the helper ended with %v: %s", err, stderr.String())
	}
}
