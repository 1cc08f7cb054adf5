//go:build guest

package convert_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"layervault/convert"
	"layervault/tests/rawdisk"
)

// sh runs a script in the guest, with the program's settings in the environment.
func sh(t testing.TB, script string, args ...string) string {
	t.Helper()
	out, err := trySh(script, args...)
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

func trySh(script string, args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// flash is a disk of its own for /persist: a file, so that only what was written needs a search.
const flash = "/run/flash/flash.img"

// newDisk mounts an empty disk at /persist.
func newDisk(t testing.TB) {
	sh(t, `mkdir -p /run/flash; mount --bind --make-private /persist /run/flash; truncate -s 8G "$1"; mkfs.ext4 -q "$1"; mount -o loop "$1" /persist`, flash)
}

// onDisk counts how often the raw disk has the canary.
func onDisk(t testing.TB) int {
	t.Helper()
	sh(t, `sync`)
	n, err := rawdisk.Count(flash, canary)
	must(t, err)
	return n
}

// TestGuest brings an older device into a real vault: killed again and again, then to the end, then
// with a commit. Every digest is what it was, and of the vault's items the disk has nothing in the
// clear.
func TestGuest(t *testing.T) {
	t.Setenv("key", "versatile")
	d := newDevice(t)
	d.root, d.areas = "/persist", t.TempDir()
	newDisk(t)
	must(t, os.Mkdir("/persist/vault", 0o711))
	d.everything(300)
	// A container that is left by decision stays in the clear, which would hide what should be gone.
	for source, to := range d.want {
		if to == "" && strings.HasPrefix(source, "runx") {
			sh(t, `find "$1" -type f -size -1G -exec shred -n 0 -z {} +; rm -r "$1"`, d.path(source))
			delete(d.want, source)
		}
	}
	// What goes into the agents' areas becomes theirs.
	sh(t, `cd /persist/downloads; chown -R 962:962 */verified */verifier; chown -R 961:961 */pending`)
	before := d.before()
	sh(t, `layervault persist init; layervault persist open`)
	t.Cleanup(func() {
		if out, err := trySh(`for at in /run/look/*; do mountpoint -q "$at" && umount "$at"; done; layervault persist close`); err != nil {
			t.Error(err, out)
		}
	})
	status := sh(t, `layervault persist status`)
	for _, want := range []string{"Unlocked:      yes", "Ready:         no", "pending"} {
		if !strings.Contains(status, want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	if onDisk(t) == 0 {
		t.Fatal("the canary is not found before the upgrade")
	}
	t.Log(sh(t, `layervault persist upgrade -n`))

	killed := killUpgrades(t, 12)
	if out, err := trySh(`layervault persist upgrade`); err != nil {
		t.Fatal(err, out)
	}
	t.Logf("%d kills before the end", killed)
	if status := sh(t, `layervault persist status`); !strings.Contains(status, "Ready:         yes") {
		t.Errorf("after the upgrade:\n%s", status)
	}
	d.look()
	for source := range before { // nothing is gone yet
		same(t, "source "+source, before[source], snapshot(t, d.path(source)))
	}

	killUpgrades(t, 6, "--commit")
	t.Log(sh(t, `layervault persist upgrade --commit`))
	d.check(before, true)
	const inClear = 1 // the disk of a VM whose volume the configuration wants in the clear tier
	if found := onDisk(t); found != inClear {
		t.Errorf("the canary is on the disk %d times after the commit, want %d: in the clear tier", found, inClear)
	}
	if left := sh(t, `ls -A /run/layervault-upgrade 2>/dev/null || true`); left != "" {
		t.Errorf("left in /run: %s", left)
	}
}

// killUpgrades kills upgrades at random moments, at most so many.
func killUpgrades(t *testing.T, most int, flags ...string) (killed int) {
	rng := rand.New(rand.NewPCG(15, 28))
	lasts := 8 * time.Second
	for range most {
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "layervault", append([]string{"persist", "upgrade"}, flags...)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		timer := time.AfterFunc(time.Duration(rng.Int64N(int64(lasts))), func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "killed") {
			t.Fatalf("after %d kills: %v\n%s", killed, err, &out)
		}
		killed++
	}
	return killed
}

// look mounts the volumes, and makes d.areas the place where all destinations are.
func (d *device) look() {
	for _, a := range []convert.Area{convert.Verifier, convert.Downloader, convert.Case} {
		must(d.t, os.Symlink(filepath.Join("/persist/vault", string(a)), filepath.Join(d.areas, string(a))))
	}
	for _, to := range d.want {
		kind, rest, _ := strings.Cut(to, "/")
		id, _, isVolume := strings.Cut(rest, "/")
		if !isVolume || kind != string(convert.Volumes) && kind != string(convert.ClearVolumes) {
			continue
		}
		uuid, _, _ := strings.Cut(id, "#")
		at := "/run/look/" + uuid
		sh(d.t, `mkdir -p "$2"; layervault volume mount "$1" "$2"`, "eve-"+uuid, at)
		must(d.t, os.MkdirAll(filepath.Join(d.areas, kind), 0o755))
		must(d.t, os.Symlink(at, filepath.Join(d.areas, kind, id)))
	}
	fmt.Fprintln(os.Stderr, sh(d.t, `layervault volume list`))
}
