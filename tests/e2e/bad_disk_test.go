//go:build guest

package e2e

import (
	"os"
	"strings"
	"testing"
)

// headerCopy is the length of one copy of the LUKS2 header in our images (LUKS2
// on-disk format, section 2.1: binary header and JSON area, 16 KiB together); the
// second follows the first.
const headerCopy = 16 << 10

// A full disk fails what is being written, says so, and harms nothing else.
func TestDiskFull(t *testing.T) {
	if !encrypted() {
		return
	}
	before := treeOf(t, "busybox")
	image := t.TempDir() + "/big.tar"
	sh(t, `mkdir "$1.d" && head -c 60M /dev/urandom > "$1.d/big" && tar -C "$1.d" -cf "$1" .`, image)
	// %f and not %a: what a file system keeps back for root is not kept back from dockerd and the plugin.
	const fill = "/persist/e2e-fill"
	t.Cleanup(func() { _ = os.Remove(fill) })
	sh(t, `free=$(( $(stat -f -c '%f * %S' /persist) )); fallocate -l $(( free - (20 << 20) )) "$1"`, fill)

	out, err := tryDocker(t, "import", image, "full:1")
	if err == nil {
		t.Error("an image larger than what is left on the disk was imported")
	}
	contains(t, "the failed import", out, "no space")
	if out, err := tryDocker(t, "image", "inspect", "full:1"); err == nil {
		t.Errorf("the failed import left an image:\n%s", out)
	}
	// a container meets the end of the disk inside its own layer; it may see EIO,
	// since it is the device below its file system that is full
	out, err = tryDocker(t, "run", "--rm", "--network", "none", "busybox", "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=60 conv=fsync")
	if err == nil {
		t.Errorf("a container wrote more than the disk had left:\n%s", out)
	}

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	sameTree(t, "busybox", treeOf(t, "busybox"), before)
	docker(t, "import", image, "full:1")
	docker(t, "rmi", "full:1")
	noLeaks(t)
}

// One damaged copy of a header is repaired on the way; with both damaged the
// image is refused, and not touched.
func TestDamagedHeaders(t *testing.T) {
	if !encrypted() {
		return
	}
	sh(t, `echo FROM busybox > "$1/Dockerfile"; echo "RUN echo here > /here" >> "$1/Dockerfile"
		DOCKER_BUILDKIT=0 docker build -q --network none -t damaged:1 "$1" >/dev/null`, t.TempDir())
	path := imageFile(t, "damaged:1")
	read := func() string {
		t.Helper()
		return docker(t, "run", "--rm", "--network", "none", "damaged:1", "cat", "/here")
	}
	for copyNo, name := range []string{"first", "second"} {
		stop(t)
		scratch(t, path, int64(copyNo)*headerCopy)
		start(t)
		if got := read(); got != "here" {
			t.Errorf("with the %s copy damaged the file reads %q", name, got)
		}
		// repaired: stock cryptsetup finds nothing left to mend, and both copies carry the magic
		sh(t, `cryptsetup luksDump "$1" >/dev/null && cmp -n 4 <(printf 'LUKS') "$1" && cmp -n 4 <(printf 'SKUL') <(tail -c +$(($2 + 1)) "$1" | head -c 4)`, path, "16384")
	}

	stop(t)
	good := sh(t, `cp --sparse=always "$1" /run/good.img; sha256sum < "$1"`, path)
	scratch(t, path, 0)
	scratch(t, path, headerCopy)
	damaged := sh(t, `sha256sum < "$1"`, path)
	start(t)
	out, err := tryDocker(t, "run", "--rm", "--network", "none", "damaged:1", "cat", "/here")
	if err == nil {
		t.Errorf("an image with two damaged headers was opened:\n%s", out)
	}
	contains(t, "the refusal", out, "damaged")
	if !strings.Contains(out, path) && !strings.Contains(out, strings.Split(path, "/")[4]) {
		t.Errorf("the refusal does not name the image %s:\n%s", path, out)
	}
	if now := sh(t, `sha256sum < "$1"`, path); now != damaged {
		t.Error("the refused image was written to")
	}
	// another image is none the worse
	docker(t, "run", "--rm", "--network", "none", "busybox", "true")

	// the header comes back from a copy, and with it the layer
	sh(t, `cat /run/good.img > "$1"; rm /run/good.img`, path)
	if now := sh(t, `sha256sum < "$1"`, path); now != good {
		t.Fatal("the copy was not put back")
	}
	if got := read(); got != "here" {
		t.Errorf("the restored layer's file reads %q", got)
	}
	docker(t, "rmi", "damaged:1")
	noLeaks(t)
}

// scratch overwrites the beginning of a header copy.
func scratch(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4096), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
