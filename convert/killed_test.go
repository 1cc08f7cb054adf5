//go:build !race

// Each kill starts this test's binary, which takes seconds with the race detector.

package convert_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"layervault/convert"
)

// childEnv holds the folder in which a child of TestKilled upgrades, and commitEnv whether it
// commits.
const (
	childEnv  = "LAYERVAULT_TEST_CONVERT"
	commitEnv = "LAYERVAULT_TEST_CONVERT_COMMIT"
)

// TestKilledChild is what TestKilled starts; by itself it has nothing to do.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		return
	}
	d := &device{t: t, root: filepath.Join(dir, "persist"), areas: filepath.Join(dir, "areas")}
	cfg := d.config()
	cfg.Commit = os.Getenv(commitEnv) != ""
	_, err := convert.Run(t.Context(), cfg)
	must(t, err)
}

// kills is how often TestKilled kills; KILLS in the environment says another number.
const kills = 50

// TestKilled kills upgrades of a layout with every case at random moments, each layout until one
// run comes to its end: with a commit at once, or with a commit in a run of its own. Then every
// digest is what it was, and nothing is left over.
func TestKilled(t *testing.T) {
	want := kills
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		if want, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(2026, 11))
	killed, halfway, ended := 0, 0, 0
	for killed < want {
		d := full(t, 200)
		before := d.before()
		atOnce := ended%2 == 0
		lasts := 150 * time.Millisecond
		for {
			died, took := d.kill(atOnce, 1+time.Duration(rng.Int64N(int64(lasts))))
			if !died {
				break
			}
			killed++
			lasts += took / 4 // so that it comes to its end some time
			if d.staged() {
				halfway++
			}
			d.sound(before, fmt.Sprintf("after %d kills", killed))
		}
		d.check(before, atOnce)
		if !atOnce {
			for died := true; died; killed++ {
				died, _ = d.kill(true, 1+time.Duration(rng.Int64N(int64(lasts))))
				d.sound(before, fmt.Sprintf("commit, after %d kills", killed))
			}
			killed--
			d.check(before, true)
		}
		ended++
		must(t, os.RemoveAll(filepath.Dir(d.root)))
		if t.Failed() {
			t.Fatalf("after %d kills", killed)
		}
	}
	t.Logf("%d kills, %d of them left a staged copy; %d layouts came to their end", killed, halfway, ended)
	if halfway == 0 {
		t.Error("no kill came in the middle")
	}
}

// kill upgrades in a child, which is killed after a while.
func (d *device) kill(commit bool, after time.Duration) (died bool, took time.Duration) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), os.Args[0], "-test.run=^TestKilledChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+filepath.Dir(d.root))
	if commit {
		cmd.Env = append(cmd.Env, commitEnv+"=1")
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := time.Now()
	must(d.t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // of one that ended: no harm
	defer timer.Stop()
	err := cmd.Wait()
	took = time.Since(begun)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false, took
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return true, took
	}
	d.t.Fatalf("%v: %s", err, &out)
	return false, took
}

// staged reports whether a copy is half done.
func (d *device) staged() bool {
	for _, pattern := range []string{"*/.upgrade-*", "*/*/.upgrade-*"} {
		if found, _ := filepath.Glob(filepath.Join(d.areas, pattern)); len(found) > 0 {
			return true
		}
	}
	return false
}

// sound wants every item to be whole somewhere: at its source, or in its place.
func (d *device) sound(before map[string]map[string]string, when string) {
	d.t.Helper()
	for source, to := range d.want {
		if to == "" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(d.areas, to)); err == nil {
			now := snapshot(d.t, filepath.Join(d.areas, to))
			if before[source]["snapshotid.txt"] == "" && strings.HasSuffix(to, ".container") {
				delete(now, "snapshotid.txt")
			}
			if !maps.Equal(now, before[source]) {
				same(d.t, when+": copy of "+source, before[source], now)
			}
			continue
		}
		same(d.t, when+": source "+source, before[source], snapshot(d.t, d.path(source)))
	}
}
