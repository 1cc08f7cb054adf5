//go:build guest

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// emptyDoor removes everything that containerd has, and wants nothing of it to be left.
func emptyDoor(t *testing.T) {
	t.Helper()
	sh(t, ctr+`
		$ctr task ls -q | while read -r id; do $ctr task kill -s KILL "$id" || true; until $ctr task rm -f "$id" || ! $ctr task ls -q | grep -qxF "$id"; do sleep 0.2; done; done
		$ctr container ls -q | xargs -r $ctr container rm
		$ctr image ls -q | xargs -r $ctr image rm
		$ctr snapshot $sn ls | awk '$NF == "Active" && $1 !~ /^extract-/ { print $1 }' | xargs -r -n 1 $ctr snapshot $sn rm
		$ctr leases create >/dev/null # its removal collects garbage
		$ctr leases ls -q | xargs -r -n 1 $ctr leases rm --sync`)
	waitFor(t, func() bool { return kinds(t) == "" })
	waitFor(t, func() bool { return sh(t, `dmsetup ls | grep -c layervault- || true`) == "0" })
	noLeaks(t, "--empty")
}

// treeThere is what a container of an image sees.
func treeThere(t *testing.T, image string) string {
	t.Helper()
	return sh(t, ctr+`$ctr run --rm $sn --mount "type=bind,src=$(realpath "$(command -v treesum)"),dst=/treesum,options=rbind:ro" "$1" tree /treesum / | grep -v '"\."$'`, image)
}

// A container meets the size of its layer: that of a label, or that of the settings.
func TestContainerdQuota(t *testing.T) {
	const image = "docker.io/library/quota:latest"
	serveContainerd(t, "--size", "64M")
	startContainerd(t, true)
	sh(t, ctr+`$ctr image import $sn "$1"`, imageTar(t, image))
	write := func(megabytes, label string) (string, error) {
		return trySh(t, ctr+`$ctr run --rm $sn $3 "$1" "quota$2" dd if=/dev/zero of=/x bs=1M "count=$2" conv=fsync 2>&1`, image, megabytes, label)
	}
	const label = "--snapshotter-label containerd.io/snapshot/max-size="
	for _, c := range []struct{ megabytes, label string }{{"40", ""}, {"100", label + "200MiB"}, {"10", label + "24MiB"}} {
		if out, err := write(c.megabytes, c.label); err != nil {
			t.Errorf("%s MB with %q: %v: %s", c.megabytes, c.label, err, out)
		}
	}
	for _, c := range []struct{ megabytes, label string }{{"90", ""}, {"30", label + "24MiB"}} {
		out, err := write(c.megabytes, c.label)
		if err == nil {
			t.Errorf("%s MB with %q were written", c.megabytes, c.label)
		}
		contains(t, "the container", out, "no space left")
	}
	out, err := write("1", label+"plenty")
	if err == nil {
		t.Error("a size that is none was accepted")
	}
	contains(t, "the refusal", out, "max-size", "plenty")
	emptyDoor(t)
}

// containerd is killed while a layer is applied: nothing of the layer stays, and the next attempt
// succeeds.
func TestContainerdKilledInApply(t *testing.T) {
	const image = "docker.io/library/killed:latest"
	serveContainerd(t)
	kill := startContainerd(t, true)
	big := t.TempDir() + "/big.tar"
	sh(t, `noiseimage "$1" 200000000 >"$2"`, image, big)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = run(context.Background(), "bash", "-c", ctr+`exec $ctr image import $sn "$1"`, "bash", big)
	}()
	inApply := `find /persist/vault/layers -path '*/.tmp-*' -size +20M | grep -c . || true`
	waitFor(t, func() bool { return sh(t, inApply) != "0" })
	kill()
	<-done
	waitFor(t, func() bool { return sh(t, `find /persist/vault/layers -name '.tmp-*' | grep -c . || true`) == "0" })
	if got := kinds(t); strings.Contains(got, "sealed") {
		t.Errorf("layers after the kill: %s", got)
	}
	startContainerd(t, true)
	sh(t, ctr+`$ctr image import $sn "$1"`, big)
	if got := kinds(t); !strings.Contains(got, "sealed 3") {
		t.Errorf("layers after an import: %s", got)
	}
	emptyDoor(t)
}

// A service that cannot serve says so at once, and serves as soon as it can.
func TestContainerdLockedStart(t *testing.T) {
	first := serveContainerd(t)
	startContainerd(t, true)
	prepare := ctr + `$ctr snapshot $sn prepare --mounts "$1" 2>&1`
	sh(t, prepare, "one")

	// A second one, on the same sockets, and on others.
	if out, err := trySh(t, `layervault serve --doors snapshots,diff --key versatile 2>&1`); err == nil {
		t.Errorf("a second service runs:\n%s", out)
	} else {
		contains(t, "the second service", out, "another layervault is running")
	}
	sh(t, prepare, "two")
	first.kill()

	key := sh(t, `find /persist -name versatile.key`)
	if key == "" {
		t.Fatal("no key file was found")
	}
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	serveContainerd(t)
	begun := time.Now()
	out, err := trySh(t, prepare, "three")
	if err == nil {
		t.Errorf("a locked vault prepared a snapshot: %s", out)
	}
	contains(t, "the locked vault", out, "cannot serve snapshots", "next:")
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("the answer took %v", took)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		_, err := trySh(t, prepare, "three")
		return err == nil
	})
	sh(t, ctr+`for s in one two three; do $ctr snapshot $sn rm "$s"; done`)
	emptyDoor(t)
}

// doorKills of TestContainerdServiceKilled; with -short doorKillsShort.
const (
	doorKills      = 100
	doorKillsShort = 4
)

// The service is killed many times while containers run and images come and go. What was imported
// must read back byte for byte, and nothing may stay behind.
func TestContainerdServiceKilled(t *testing.T) {
	const image = "docker.io/library/kept:latest"
	d := serveContainerd(t)
	startContainerd(t, true)
	sh(t, `noiseimage "$1" >"$2"; noiseimage docker.io/library/load:latest >"$2.load"; `+ctr+`$ctr image import $sn "$2"; mv "$2.load" /run/door/load.tar`, image, t.TempDir()+"/image.tar")
	begun := time.Now()
	before := treeThere(t, image)
	// Long enough on a slow machine that some calls end between two kills.
	life := max(longestLife, 3*time.Since(begun))
	kills := doorKills
	if testing.Short() {
		kills = doorKillsShort
	}
	killUnderLoad(t, kills, map[string]string{
		"run":  ctr + `$ctr run --rm $sn ` + image + ` "run-$1" sh -c 'dd if=/dev/zero of=/x bs=64k count=16 2>/dev/null; sync'`,
		"load": ctr + `$ctr image import $sn /run/door/load.tar; $ctr image rm --sync docker.io/library/load:latest`,
		"commit": ctr + `set -e; parent=$($ctr snapshot $sn ls | awk '$1 ~ /^sha256:/ && $NF == "Committed" { print $1; exit }')
			$ctr snapshot $sn prepare "c-$1" "$parent"; $ctr snapshot $sn commit "d-$1" "c-$1"; $ctr snapshot $sn view "v-$1" "d-$1"; $ctr snapshot $sn usage "v-$1"
			$ctr snapshot $sn label "d-$1" containerd.io/gc.root=`,
	}, func() error {
		liveUpTo(t, 0, life)
		d.kill()
		return d.start(t.Context())
	})
	waitFor(t, func() bool {
		_, err := trySh(t, ctr+`$ctr run --rm $sn "$1" alive true`, image)
		return err == nil
	})
	sameTree(t, image, treeThere(t, image), before)
	// What the load began is garbage without this label. Removed by name it would not go: when
	// containerd collects a view, its parent keeps it as a child.
	sh(t, ctr+`$ctr snapshot $sn ls | awk '$1 ~ /^[cd]-/ { print $1 }' | xargs -r -I '{}' $ctr snapshot $sn label '{}' containerd.io/gc.root=`)
	emptyDoor(t)
}
