//go:build guest

package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// imageRow is a line of layervault image list --json.
type imageRow struct {
	Layer, Kind, UUID, Path string
}

func imageList(t *testing.T) []imageRow {
	t.Helper()
	var rows []imageRow
	if err := json.Unmarshal([]byte(sh(t, "layervault image list --json")), &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// openStock opens an image with stock cryptsetup and runs script in its mounted root ($1).
const openStock = `
	img=$1; mnt=$(mktemp -d)
	layervault image key "$img" | cryptsetup open --readonly --key-file - "$img" stock
	trap 'umount "$mnt" 2>/dev/null; cryptsetup close stock; rmdir "$mnt"' EXIT
	options=ro
	[ "$(blkid -p -s TYPE -o value /dev/mapper/stock)" != ext4 ] || options=ro,noload
	mount -o "$options" /dev/mapper/stock "$mnt"
	`

// Every image that the driver made is what cryptsetup calls a LUKS2 device: it
// dumps, opens and mounts, as ext4 or EROFS.
func TestStockCryptsetupOpensEveryImage(t *testing.T) {
	if !encrypted() {
		return
	}
	sh(t, `printf 'FROM busybox\nRUN echo one > /one\nRUN rm /one\n' | DOCKER_BUILDKIT=0 docker build -q --network none -t stock:1 - >/dev/null
		docker run --name stock --network none stock:1 sh -c 'echo mine > /mine'`)
	rows := imageList(t)
	kinds := map[string]int{}
	mine := false // the container's own file was seen
	for _, r := range rows {
		if r.Path == "" {
			continue
		}
		kinds[r.Kind]++
		out, err := trySh(t, openStock+`cryptsetup luksUUID "$img"; ls "$mnt/diff" >/dev/null; cat "$mnt/diff/mine" 2>/dev/null || true`, r.Path)
		if err != nil {
			t.Errorf("layer %s: %v\n%s", r.Layer, err, out)
		}
		uuid, content, _ := strings.Cut(out, "\n")
		if uuid != r.UUID {
			t.Errorf("cryptsetup says that layer %s is %s, image list says %s", r.Layer, uuid, r.UUID)
		}
		mine = mine || r.Kind == "writable" && content == "mine"
	}
	if kinds["sealed"] < 2 || kinds["writable"] < 1 {
		t.Errorf("the session made %v images, want several sealed and a writable one", kinds)
	}
	if !mine {
		t.Error("no writable image holds the file that the container wrote")
	}
	docker(t, "rm", "stock")
	docker(t, "rmi", "stock:1")
}

// repair leaves an image that the driver still opens. reencrypt leaves one whose header
// nobody with the image's key wrote: it is refused until a person takes it in.
func TestStockCryptsetupRepairsAndReencrypts(t *testing.T) {
	if !encrypted() {
		return
	}
	sh(t, `printf 'FROM busybox\nRUN echo kept > /kept\n' | DOCKER_BUILDKIT=0 docker build -q --network none -t again:1 - >/dev/null`)
	path := imageFile(t, "again:1")
	read := func() string {
		t.Helper()
		return docker(t, "run", "--rm", "--network", "none", "again:1", "cat", "/kept")
	}
	key := "/run/e2e-stock-key"
	t.Cleanup(func() { _ = os.Remove(key) })
	sh(t, `layervault image key "$1" --key-file-out "$2"`, path, key)

	stop(t)
	sh(t, `cryptsetup repair -q "$1"`, path)
	start(t)
	if got := read(); got != "kept" {
		t.Errorf("after repair the file reads %q", got)
	}

	stop(t)
	was := sh(t, `cryptsetup luksDump --dump-json-metadata "$1"`, path)
	// a plain file: cryptsetup cannot see by itself that nobody has it open
	out := sh(t, `cryptsetup reencrypt -q --force-offline-reencrypt --key-file "$2" --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$1" 2>&1`, path, key)
	now := sh(t, `cryptsetup luksDump --dump-json-metadata "$1"`, path)
	if digests(t, was) == digests(t, now) {
		t.Errorf("reencrypt left the volume key as it was:\n%s", out)
	}
	start(t)
	if out, err := tryDocker(t, "run", "--rm", "--network", "none", "again:1", "cat", "/kept"); err == nil || !strings.Contains(out+err.Error(), "image adopt") {
		t.Errorf("after reencrypt the image is not refused with the way on: %v, %q", err, out)
	}
	sh(t, `layervault image adopt --yes "$1"`, path)
	if got := read(); got != "kept" {
		t.Errorf("after reencrypt and adoption the file reads %q", got)
	}
	docker(t, "rmi", "again:1")
	noLeaks(t)
}

// digests is what a header says of its volume key, as text.
func digests(t *testing.T, metadata string) string {
	t.Helper()
	var m struct {
		Digests map[string]struct{ Digest string }
	}
	if err := json.Unmarshal([]byte(metadata), &m); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range m.Digests {
		all = append(all, d.Digest)
	}
	return strings.Join(all, " ")
}

// The kernel names a key of its keyring and shows none, neither to dmsetup nor in
// the process list or the environment of the plugin.
func TestNoKeyInSight(t *testing.T) {
	if !encrypted() {
		return
	}
	docker(t, "run", "-d", "--name", "sight", "--network", "none", "busybox", "sleep", "600")
	t.Cleanup(func() { _, _ = tryDocker(t, "rm", "-f", "sight") })
	tables := sh(t, `dmsetup table --showkeys --target crypt`)
	n := 0
	for line := range strings.Lines(tables) {
		if !strings.HasPrefix(line, "layervault-") {
			continue
		}
		n++
		// NAME: START LENGTH crypt CIPHER KEY ...; a key in the keyring is :SIZE:TYPE:NAME
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], ":64:logon:") {
			t.Errorf("the table shows its key: %s", f[0])
		}
	}
	if n < 2 {
		t.Errorf("%d encrypted devices are open under a container, want at least 2:\n%s", n, tables)
	}
	// the passphrase of an open image is in no file of /proc that others could read, and not in dockerd's log
	path := imageFile(t, "busybox")
	sh(t, `key=$(layervault image key "$1" | base64 -w0)
		pass=$(base64 -d <<<"$key" | tr -d '\0')
		for f in /proc/[0-9]*/cmdline /proc/[0-9]*/environ /var/log/dockerd.log /proc/keys; do
			# the pattern comes from a pipe, so that it is in no command line itself
			if grep -qaF -f <(printf '%s' "$pass") "$f" 2>/dev/null; then
				case $f in /proc/$$/* | /proc/self/*) ;; *) echo "the passphrase is in $f"; exit 1 ;; esac
			fi
		done`, path)
}
