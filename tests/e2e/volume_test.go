//go:build guest

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// volumeRow is what layervault volume show --json says.
type volumeRow struct {
	Name, ID, State, Path string
	Docker                []string `json:"docker_mounts"`
}

func showVolume(t *testing.T, name string) volumeRow {
	t.Helper()
	var row volumeRow
	out := sh(t, `layervault volume show --json "$1" 2>/dev/null`, name)
	if err := json.Unmarshal([]byte(out), &row); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return row
}

// inVolume runs a script in a busybox that has a volume at /v.
func inVolume(t *testing.T, name, script string) string {
	t.Helper()
	return docker(t, "run", "--rm", "--network", "none", "-v", name+":/v", "busybox", "sh", "-c", script)
}

// Docker's own commands: create, inspect, list, use, share, fill up, remove.
func TestVolume(t *testing.T) {
	const name = "e2e-volume"
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", name)
	t.Cleanup(func() { _, _ = tryDocker(t, "volume", "rm", "-f", name) })
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", name)
	out, err := tryDocker(t, "volume", "create", "-d", "layervault", "-o", "colour=blue", "e2e-bad")
	if err == nil {
		t.Error("an unknown option was taken")
	}
	contains(t, "an unknown option", out, "colour", "known options: cipher", "tier")
	contains(t, "docker volume ls", docker(t, "volume", "ls"), "layervault", name)
	contains(t, "docker volume inspect", docker(t, "volume", "inspect", name), `"Size": 67108864`, `"State": "ready"`, `"Tier": "vault"`)

	if got := inVolume(t, name, `echo secret > /v/file; ls /v`); got != "file" {
		t.Errorf("a new volume holds %q", got)
	}
	if got := inVolume(t, name, `cat /v/file; echo more >> /v/file`); got != "secret" {
		t.Errorf("read %q", got)
	}
	// Two containers at once, on one file system.
	docker(t, "run", "-d", "--name", "e2e-holder", "--network", "none", "-v", name+":/v", "busybox", "sleep", "3600")
	t.Cleanup(func() { _, _ = tryDocker(t, "rm", "-f", "e2e-holder") })
	inVolume(t, name, `echo shared > /v/shared`)
	if got := docker(t, "exec", "e2e-holder", "cat", "/v/shared"); got != "shared" {
		t.Errorf("the other container reads %q", got)
	}
	if row := showVolume(t, name); row.State != "mounted" || len(row.Docker) != 1 {
		t.Errorf("in use: %+v", row)
	}
	if out, err := trySh(t, `layervault volume remove "$1"`, name); err == nil {
		t.Errorf("removed while in use: %s", out)
	} else {
		contains(t, "removing a volume in use", out, "in use")
	}
	docker(t, "rm", "-f", "e2e-holder")
	if row := showVolume(t, name); row.State != "ready" || len(row.Docker) != 0 {
		t.Errorf("after its last use: %+v", row)
	}
	contains(t, "a full volume", inVolume(t, name, `dd if=/dev/zero of=/v/big bs=1M count=128 2>&1; rm /v/big; cat /v/file`), "No space left", "secret", "more")
	// What an image has at a volume's place is copied there, as with any volume driver.
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", "e2e-copy")
	if got := docker(t, "run", "--rm", "--network", "none", "-v", "e2e-copy:/etc", "busybox", "ls", "/etc"); !strings.Contains(got, "passwd") && got == "" {
		t.Errorf("the image's files were not copied: %q", got)
	}
	docker(t, "volume", "rm", "e2e-copy", name)
	if out := sh(t, `layervault volume list 2>/dev/null`); strings.Contains(out, "e2e-") {
		t.Errorf("left: %s", out)
	}
	noLeaks(t)
}

// The plugin is killed under a container with a volume: the container goes on, and all of
// it can be removed. A restart of dockerd keeps the content, and what it forgets to unmount
// does not keep the volume.
func TestVolumeUnderAKilledPlugin(t *testing.T) {
	const name = "e2e-killed"
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", name)
	t.Cleanup(func() { _, _ = tryDocker(t, "volume", "rm", "-f", name) })
	docker(t, "run", "-d", "--name", "e2e-killed", "--network", "none", "-v", name+":/v", "busybox", "sh", "-c", "echo before > /v/file; exec sleep 3600")
	t.Cleanup(func() { _, _ = tryDocker(t, "rm", "-f", "e2e-killed") })
	docker(t, "exec", "e2e-killed", "sh", "-c", "until [ -s /v/file ]; do sleep 0.1; done")
	if err := killPlugin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := docker(t, "exec", "e2e-killed", "sh", "-c", "echo after >> /v/file; cat /v/file"); got != "before\nafter" {
		t.Errorf("after the kill the container reads %q", got)
	}
	if row := showVolume(t, name); row.State != "mounted" || len(row.Docker) != 1 {
		t.Errorf("after the kill: %+v", row)
	}
	if got := inVolume(t, name, "cat /v/file"); got != "before\nafter" {
		t.Errorf("another container reads %q", got)
	}
	restart(t)
	docker(t, "start", "e2e-killed")
	if got := docker(t, "exec", "e2e-killed", "sh", "-c", "head -n 1 /v/file"); got != "before" {
		t.Errorf("after the restart the container reads %q", got)
	}
	docker(t, "rm", "-f", "e2e-killed")
	docker(t, "volume", "rm", name)
	noLeaks(t)
}

// The plugin is killed and killed again while containers come and go on one volume.
func TestVolumeKilledUnderLoad(t *testing.T) {
	const name = "e2e-load"
	docker(t, "volume", "create", "-d", "layervault", "-o", "size=64M", name)
	t.Cleanup(func() { _, _ = tryDocker(t, "volume", "rm", "-f", name) })
	inVolume(t, name, "echo kept > /v/kept")
	stopped := make(chan int)
	done := make(chan struct{})
	go func() {
		good := 0
		for i := 0; ; i++ {
			select {
			case <-done:
				stopped <- good
				return
			default:
			}
			if _, err := tryDocker(t, "run", "--rm", "--network", "none", "-v", name+":/v", "busybox", "sh", "-c", fmt.Sprintf("cat /v/kept; echo %d > /v/n", i)); err == nil {
				good++
			}
		}
	}()
	for i := range 20 {
		live(t, firstLook)
		if err := killPlugin(t.Context()); err != nil {
			t.Errorf("kill %d: %v", i, err)
			break
		}
	}
	close(done)
	t.Logf("%d containers came through", <-stopped)
	if got := inVolume(t, name, "cat /v/kept"); got != "kept" {
		t.Errorf("read %q", got)
	}
	sh(t, `docker ps -aq | xargs -r docker rm -f >/dev/null`)
	docker(t, "volume", "rm", name)
	noLeaks(t)
}

// No file on the disk holds what was written to an encrypted volume; one of the clear tier
// does, so the search can find.
func TestVolumeCanary(t *testing.T) {
	const canary = "xohtei9UWeeghoht9aiwu6Oo"
	for name, option := range map[string]string{"e2e-encrypted": "size=64M", "e2e-clear": "clear=true"} {
		want := name == "e2e-clear"
		docker(t, "volume", "create", "-d", "layervault", "-o", option, name)
		t.Cleanup(func() { _, _ = tryDocker(t, "volume", "rm", "-f", name) })
		// From standard input: docker keeps command lines in its own files.
		sh(t, `echo "$2-$1" | docker run -i --rm --network none -v "$1:/v" busybox sh -c 'cat > /v/canary; sync'`, name, canary)
		sh(t, `sync`)
		// Containers' layers are sparse files of 64 GiB, and not what this is about.
		out, err := trySh(t, `find /persist -xdev -type f -size -64G -print0 | xargs -0 grep -lsF -- "$1"`, canary+"-"+name)
		if found := strings.TrimSpace(out) != ""; found != want {
			t.Errorf("%s: found in %q (%v)", name, out, err)
		}
	}
	docker(t, "volume", "rm", "e2e-encrypted", "e2e-clear")
}

// A container of Pantavisor, moved to docker by the words of disk compose, sees what the
// disk holds; and a stack of it by a compose file's.
func TestVolumeCompose(t *testing.T) {
	dir := t.TempDir()
	device := "/persist/device.json"
	if err := os.WriteFile(device, []byte(`{"disks":[{"name":"pvr-sdk-dm-versatile","path":"/persist/dm-crypt-files/pvr-sdk/versatile.img,8,versatile_key-pvr-sdk-dm-versatile","type":"dm-crypt-versatile"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(dir, "src.json")
	if err := os.WriteFile(src, []byte(`{"name":"pvr-sdk","persistence":{"/var/dmcrypt/volume":"permanent@pvr-sdk-dm-versatile"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, `layervault disk mount --disks "$1" pvr-sdk-dm-versatile /run/e2e-disk >/dev/null
		mkdir -p /run/e2e-disk/perm/pvr-sdk/docker--var-dmcrypt-volume
		echo pantavisor > /run/e2e-disk/perm/pvr-sdk/docker--var-dmcrypt-volume/file
		layervault disk umount --disks "$1" pvr-sdk-dm-versatile`, device)
	// A setting of the plugin changes only while it is disabled, which dockerd does not do while it is its storage driver.
	stop(t)
	sh(t, `for f in /persist/docker/plugins/*/config.json; do sed -i 's#"disks="#"disks=/persist/device.json"#' "$f"; grep -q 'disks=/persist/device.json' "$f"; done`)
	start(t)
	t.Cleanup(func() { _, _ = tryDocker(t, "volume", "rm", "-f", "pvr-sdk.docker--var-dmcrypt-volume") })
	sh(t, `layervault disk compose --disks "$1" "$2" >/run/e2e-compose; grep '^docker volume create' /run/e2e-compose | bash >/dev/null`, device, src)
	run := sh(t, `sed -n '/^docker run/,$p' /run/e2e-compose | sed "s/ IMAGE/ --rm --network none busybox cat \/var\/dmcrypt\/volume\/file/" | bash`)
	if run != "pantavisor" {
		t.Errorf("the container reads %q", run)
	}
	docker(t, "volume", "rm", "pvr-sdk.docker--var-dmcrypt-volume")

	// The same by docker compose: what is printed, completed by a file of one's own, and a volume of that file's.
	printed, mine := filepath.Join(dir, "printed.yaml"), filepath.Join(dir, "mine.yaml")
	sh(t, `layervault disk compose --yaml --disks "$1" "$2" >"$3"`, device, src, printed)
	if err := os.WriteFile(mine, []byte(composeFile), 0o600); err != nil {
		t.Fatal(err)
	}
	project := []string{"compose", "--ansi", "never", "-p", "e2e", "-f", printed, "-f", mine}
	compose := func(args ...string) string {
		t.Helper()
		return docker(t, slices.Concat(project, args)...)
	}
	t.Cleanup(func() { _, _ = tryDocker(t, slices.Concat(project, []string{"down", "-v"})...) })
	for _, want := range []string{"first", "first\nsecond"} { // the volumes outlive their container
		compose("up", "--abort-on-container-exit")
		if got := docker(t, "logs", "e2e-pvr-sdk-1"); got != want+"\n"+want {
			t.Errorf("the container printed %q", got)
		}
		compose("down")
		sh(t, `sed -i s/first/second/ "$1"`, mine)
	}
	onDisk := sh(t, `layervault disk mount --disks "$1" pvr-sdk-dm-versatile /run/e2e-disk >/dev/null
		cat /run/e2e-disk/perm/pvr-sdk/docker--var-dmcrypt-volume/file; layervault disk umount --disks "$1" pvr-sdk-dm-versatile`, device)
	if onDisk != "first\nsecond" {
		t.Errorf("Pantavisor would read %q", onDisk)
	}
	if size := sh(t, `layervault volume list --json | jq '.[] | select(.name == "e2e_own") | .size_bytes'`); size != "33554432" {
		t.Errorf("the volume of the compose file has %s bytes", size)
	}
	compose("down", "-v")
	if left := docker(t, "volume", "ls", "-q"); left != "" {
		t.Errorf("docker compose down -v left %s", left)
	}
	noLeaks(t)
}

const composeFile = `
services:
  pvr-sdk:
    image: busybox
    network_mode: none
    command: sh -c "for f in /var/dmcrypt/volume/file /own/file; do echo first >> $$f; cat $$f; done"
    volumes: [own:/own]
volumes:
  own:
    driver: layervault
    driver_opts: {size: 32M}
`
