//go:build guest

package e2e

import (
	"os"
	"testing"
)

// imageKey is what opens an image, in base64: bash strings hold no NUL.
func imageKey(t *testing.T, path string) string {
	t.Helper()
	return sh(t, `layervault image key "$1" | base64 -w0`, path)
}

// A new tier key under images and containers that dockerd made with the old one: before and
// after it they run, and the old key opens none of them.
func TestKeysRotate(t *testing.T) {
	if !encrypted() {
		return
	}
	sh(t, `printf 'FROM busybox\nRUN echo kept > /kept\n' | DOCKER_BUILDKIT=0 docker build -q --network none -t rotate:1 - >/dev/null
		docker run --name rotate --network none rotate:1 sh -c 'echo mine > /mine; cat /kept' | grep -qx kept`)
	t.Cleanup(func() {
		_, _ = tryDocker(t, "rm", "-f", "rotate")
		_, _ = tryDocker(t, "rmi", "rotate:1")
	})
	path := imageFile(t, "rotate:1")
	before := imageKey(t, path)

	// while the plugin serves the store nothing is touched
	ring, err := os.ReadFile(vault + "/keyring.json")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "key rotate beside a plugin", sh(t, `layervault key rotate 2>&1 && exit 1 || test $? = 5`+"\n"+`layervault key rotate 2>&1 || true`), "a plugin serves", "disable")
	if now, err := os.ReadFile(vault + "/keyring.json"); err != nil || string(now) != string(ring) {
		t.Errorf("the refused rotation wrote the ring: %v", err)
	}

	for range 2 { // the second time under images that were rotated already
		stop(t)
		contains(t, "key rotate", sh(t, `layervault key rotate`), "rotated the tier key")
		start(t)
		if got := docker(t, "run", "--rm", "--network", "none", "rotate:1", "cat", "/kept"); got != "kept" {
			t.Errorf("after the rotation the image's file reads %q", got)
		}
		if got := sh(t, `docker start -a rotate; docker cp rotate:/mine - | tar -xO`); got != "kept\nmine" {
			t.Errorf("after the rotation the old container printed %q", got)
		}
	}
	after := imageKey(t, path)
	if before == after {
		t.Error("the image's key is the old one")
	}
	sh(t, `test_key() { base64 -d <<<"$1" | cryptsetup open --test-passphrase --key-file - "$path"; }
		path=$1; test_key "$3"; if test_key "$2" 2>/dev/null; then echo "the old key opens the image"; exit 1; fi`, path, before, after)

	// images of after a rotation, and their removal, are as ever
	sh(t, `printf 'FROM rotate:1\nRUN echo new > /new\n' | DOCKER_BUILDKIT=0 docker build -q --network none -t rotate:2 - >/dev/null
		docker run --rm --network none rotate:2 cat /kept /new | tr '\n' ' ' | grep -qx 'kept new '
		docker rmi rotate:2 >/dev/null`)
	noLeaks(t)
}
