//go:build guest

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tests begin with an empty /persist (GUEST_BARE), and leave a vault with empty areas.

// openPersist makes the layout and opens its areas, until the test ends.
func openPersist(t *testing.T) {
	t.Helper()
	t.Setenv("key", "versatile")
	sh(t, `layervault persist init; layervault persist open`)
	t.Cleanup(func() {
		out, err := run(context.Background(), "bash", "-ec",
			`find /persist/vault/downloader /persist/vault/verifier /persist/vault/case -mindepth 1 -delete; layervault persist close`)
		if err != nil {
			t.Errorf("close the areas: %v\n%s", err, out)
		}
	})
}

// statusOf runs a command and returns its exit status with its output.
func statusOf(t *testing.T, script string, args ...string) string {
	t.Helper()
	return sh(t, `set +e; ( `+script+` ) 2>&1; echo "status $?"`, args...)
}

// TestPersistContent: content goes its way as three users, an interrupted download goes on, a
// wrong one is refused, and nothing of it is in the clear.
func TestPersistContent(t *testing.T) {
	openPersist(t)
	const canary = "ooWee1thae9Eiy5eiquaeph5"
	file := filepath.Join(t.TempDir(), "content")
	data := []byte(strings.Repeat(canary, 200_000))
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	d := fmt.Sprintf("%x", sha256.Sum256(data))
	size := fmt.Sprint(len(data))

	contains(t, "persist status", sh(t, `layervault persist status`), "Unlocked:      yes", "Ready:         yes", "opened by:   versatile (no-tpm)")
	// An interruption, and the rest.
	contains(t, "an input that breaks off", statusOf(t, `head -c 2000000 "$1" | layervault content receive "$2" --size "$3"`, file, d, size), "incomplete", "2000000 of "+size, "status 1")
	contains(t, "content list", sh(t, `layervault content list`), "sha256:"+d, "receiving")
	contains(t, "the rest", sh(t, `tail -c +2000001 "$1" | layervault content receive "$2" --size "$3" --offset 2000000`, file, d, size), "received sha256:"+d)
	if got := sh(t, `stat -c '%u %a' /persist/vault/downloader /persist/vault/downloader/"$1" /persist/vault/verifier /persist/vault/case`, d); got != "961 700\n961 600\n962 700\n0 755" {
		t.Errorf("owners and modes: %q", got)
	}
	// The kernel, and the steps, keep the users apart.
	as := func(uid string) string {
		return `setpriv --reuid ` + uid + ` --regid ` + uid + ` --clear-groups -- `
	}
	contains(t, "the verifier at the downloads", statusOf(t, as("962")+`cat /persist/vault/downloader/"$1"`, d), "permission denied", "status 1")
	contains(t, "the downloader at the verifier's", statusOf(t, as("961")+`touch /persist/vault/verifier/x`), "permission denied", "status 1")
	contains(t, "the verifier receives", statusOf(t, as("962")+`layervault content receive "$1" <"$2"`, d, file), "step of another user", "status 9")
	contains(t, "the downloader verifies", statusOf(t, as("961")+`layervault content verify "$1"`, d), "step of another user", "status 9")
	contains(t, "the downloader receives", sh(t, as("961")+`layervault content receive "$1" <"$2"`, d, file), "received already")

	sh(t, `layervault content verify "$1"`, d)
	if got := sh(t, `ls /persist/vault/downloader; stat -c '%u %a' /persist/vault/verifier/verified/"$1"`, d); got != "962 400" {
		t.Errorf("after verify: %q", got)
	}
	sh(t, `layervault content store "$1"; layervault content store "$1"; cmp "$2" /persist/vault/case/blobs/sha256/"$1"`, d, file)
	if got := sh(t, `ls /persist/vault/verifier/verified; layervault content list --json | jq -r '.[].state'`); got != "stored" {
		t.Errorf("after store: %q", got)
	}
	// The same bytes under another name, at each step.
	bad := strings.Repeat("0", 64)
	contains(t, "a wrong digest", statusOf(t, `layervault content receive "$1" <"$2"`, bad, file), "another digest", "status 10")
	sh(t, as("961")+`sh -c 'echo lie >/persist/vault/downloader/"$1"' sh "$1"`, bad)
	contains(t, "an agent that lies", statusOf(t, `layervault content verify "$1"`, bad), "another digest", "status 10")
	if got := sh(t, `find /persist/vault/downloader /persist/vault/verifier -type f`); got != "" {
		t.Errorf("left of a wrong digest: %s", got)
	}
	sh(t, `sync; echo "$1" >/persist/in-the-clear`, canary)
	if found := sh(t, `find /persist -xdev -type f -print0 | xargs -0 grep -lsF -- "$1"`, canary); found != "/persist/in-the-clear" {
		t.Errorf("in the clear: %q", found)
	}
	sh(t, `rm /persist/in-the-clear`)
}

// TestPersistContainerd: a containerd whose content store is the area works, finds what was stored
// there, and writes nothing in the area's place while it is closed.
func TestPersistContainerd(t *testing.T) {
	openPersist(t)
	const image = "docker.io/library/case:latest"
	sh(t, `mkdir -p /run/door/root; ln -s /persist/vault/case /run/door/root/io.containerd.content.v1.content`)
	stop, _ := runContainerd(t, bareConfig)
	sh(t, ctr+`$ctr image import "$1"`, imageTar(t, image))
	if got := sh(t, ctr+`$ctr run --rm "$1" one cat /kept`, image); got != "kept" {
		t.Errorf("a container says %q", got)
	}
	// Each blob that containerd has is one that layervault sees, with its digest.
	blobs := sh(t, ctr+`$ctr content ls -q | sort`)
	if seen := sh(t, `layervault content list --json | jq -r '.[] | select(.state == "stored") | "sha256:" + .digest' | sort`); seen != blobs || blobs == "" {
		t.Errorf("containerd has\n%s\nlayervault sees\n%s", blobs, seen)
	}
	sh(t, `cd /persist/vault/case/blobs/sha256; for f in *; do echo "$f  $f"; done | sha256sum --quiet -c`)
	// What layervault stored is there for containerd, which does not write it again.
	file := filepath.Join(t.TempDir(), "blob")
	data := []byte(strings.Repeat("stored by layervault\n", 100_000))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d := fmt.Sprintf("%x", sha256.Sum256(data))
	sh(t, `layervault content receive "$1" <"$2"; layervault content verify "$1"; layervault content store "$1"`, d, file)
	inode := sh(t, `stat -c %i /persist/vault/case/blobs/sha256/"$1"`, d)
	sh(t, ctr+`$ctr content ingest --expected-digest sha256:"$1" --expected-size "$3" layervault-ref <"$2"; $ctr content get sha256:"$1" | cmp - "$2"`, d, file, fmt.Sprint(len(data)))
	if now := sh(t, `stat -c %i /persist/vault/case/blobs/sha256/"$1"`, d); now != inode {
		t.Errorf("containerd wrote the blob again: inode %s, then %s", inode, now)
	}
	// After a restart of the areas everything is there.
	stop()
	sh(t, `layervault persist close; layervault persist open`)
	stop, _ = runContainerd(t, "")
	if now := sh(t, ctr+`$ctr content ls -q | sort`); !strings.Contains(now, blobs[:71]) {
		t.Errorf("after a restart containerd has\n%s", now)
	}
	stop()
	// Locked: closed, status 3, and nobody writes there.
	sh(t, `layervault persist close; mv /persist/versatile.key /run/key-away`)
	contains(t, "open without the key", statusOf(t, `layervault persist open`), "locked", "status 3")
	contains(t, "status without the key", statusOf(t, `layervault persist status`), "Maintenance", "status 3")
	contains(t, "root in the area's place", statusOf(t, `touch /persist/vault/case/plain`), "not permitted", "status 1")
	sh(t, `mv /run/key-away /persist/versatile.key; layervault persist open; layervault content list | grep -c stored`)
}

// TestPersistRoom: the areas leave the floor free, give room back, and follow a new key.
func TestPersistRoom(t *testing.T) {
	openPersist(t)
	contains(t, "a full disk", statusOf(t, `free=$(df --output=avail -B1 /persist | tail -n 1); floor=$((free - 64 * 1024 * 1024))
		layervault persist open --floor $floor
		dd if=/dev/urandom of=/persist/vault/case/big bs=1M count=200 conv=fsync
		sync; left=$(df --output=avail -B1 /persist | tail -n 1)
		[ $left -ge $((floor - 16 * 1024 * 1024)) ] && echo "the floor is free"`), "no space left", "the floor is free", "status 0")
	if st, err := os.Stat("/persist/vault/case/big"); err != nil || st.Size() < 32<<20 {
		t.Errorf("of 64 MiB above the floor the area took %v, %v", st, err)
	}
	before := sh(t, `layervault persist du --json | jq '.directories[] | select(.area == "case") | .disk_bytes'`)
	sh(t, `rm /persist/vault/case/big; layervault persist gc`)
	after := sh(t, `layervault persist du --json | jq '.directories[] | select(.area == "case") | .disk_bytes'`)
	if len(after) >= len(before) {
		t.Errorf("the area takes %s bytes, %s with the file", after, before)
	}
	sh(t, `dd if=/dev/urandom of=/persist/vault/case/big bs=1M count=100 status=none; sum=$(sha256sum </persist/vault/case/big)
		layervault key rotate; layervault persist close; layervault persist open
		[ "$sum" = "$(sha256sum </persist/vault/case/big)" ]`)
}
