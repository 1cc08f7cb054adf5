//go:build guest

package e2e

import (
	"context"
	"strings"
	"testing"
)

// old is the engine that images are moved from: Debian's Docker 26 on layervault's graph driver,
// beside Docker 29 on the snapshotter. One service of layervault has the doors for both.
var old = &engine{name: "old", root: "/persist/e2e-old", driver: "layervault", program: "/usr/sbin/dockerd"}

// migrateVars are variables of the scripts: $from and $to are the engines' flags, $dir is a
// volume of the vault, and old runs docker on the old engine.
const migrateVars = `
	from="--from unix:///run/e2e/old/docker.sock" to="--to unix:///run/docker.sock"
	old() { docker -H unix:///run/e2e/old/docker.sock "$@"; }
	# tree ENGINE IMAGE : all that a container of the image sees, but for what docker makes in each.
	tree() {
		local id
		id=$($1 create --network none "$2" true)
		$1 export "$id" | tarsum | grep -v -e '"etc/\(hosts\|hostname\|resolv.conf\|mtab\)"' -e '^d .* "\(etc\|dev\|\.\)"$' -e '"\(\.dockerenv\|dev/.*\|proc\|sys\)"$'
		$1 rm "$id" >/dev/null
	}
	layers() { $1 image inspect -f '{{json .RootFS.Layers}}' "$2"; }
	`

// startOld starts the old engine with images of all kinds, and mounts a volume at dir for the
// migration.
func startOld(t *testing.T, dir string) {
	t.Helper()
	if err := old.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(dir, "/run/")
	t.Cleanup(func() {
		_, _ = run(context.Background(), "bash", "-c", `for host in unix:///run/e2e/old/docker.sock unix:///run/docker.sock; do
				docker -H $host ps -aq | xargs -r docker -H $host rm -f; docker -H $host image ls -q | sort -u | xargs -r docker -H $host rmi -f
			done
			layervault volume umount "$1"; layervault volume remove "$1"`, "bash", name)
		if err := old.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	sh(t, migrateVars+`
		mkdir -p "$1"
		layervault volume create -o size=2G "$2" >/dev/null
		layervault volume mount "$2" "$1" >/dev/null
		old import "$3" moved:1 >/dev/null
		old tag moved:1 moved:2
		old tag moved:1 reg.example:5000/shop/moved:3
		noiseimage noise:1 >/run/noise.tar; old load -qi /run/noise.tar; rm /run/noise.tar
		layeredimage layered:1 5 >/run/layered.tar; old load -qi /run/layered.tar; rm /run/layered.tar
		printf 'FROM moved:1\nENV A="b c"\nLABEL l=1\nRUN rm /bin/vi && echo built >/built\nWORKDIR /w\nEXPOSE 80\nVOLUME /v\nENTRYPOINT ["/bin/sh"]\nCMD ["-c","cat /built"]\n' |
			DOCKER_BUILDKIT=0 docker -H unix:///run/e2e/old/docker.sock build -q --network none -t built:1 - >/dev/null
		old tag noise:1 lost:1; old rmi noise:1 >/dev/null; old tag lost:1 noise:1; old rmi lost:1 >/dev/null
		old import "$3" >/dev/null # an image without a name, but of other content than moved:1
		`, dir, name, busyboxTar)
}

// sameOnBoth compares layers and trees of the images on both engines, and runs one.
func sameOnBoth(t *testing.T) {
	t.Helper()
	sh(t, migrateVars+`
		for image in moved:1 moved:2 reg.example:5000/shop/moved:3 noise:1 layered:1 built:1; do
			test "$(layers old $image)" = "$(layers docker $image)" || { echo "layers of $image differ"; exit 1; }
			tree old $image >/run/tree.old
			tree docker $image >/run/tree.new
			diff /run/tree.old /run/tree.new || { echo "tree of $image differs"; exit 1; }
		done`)
	if got := docker(t, "run", "--rm", "--network", "none", "built:1"); got != "built" {
		t.Errorf("a container of the image that was built says %q", got)
	}
}

// Side by side: run is killed after its first image, goes on, and is done the third time; what was
// written of the containers makes them anew; clean leaves what a container needs.
func TestMigrate(t *testing.T) {
	startOld(t, "/run/migrate")
	sh(t, migrateVars+`
		docker volume create -d layervault -o size=64M shared >/dev/null
		old create --name keeper --restart on-failure:3 --network none -e B=2 -v shared:/data moved:2 sh -c 'echo "$B" >/data/file; cat /data/file' >/dev/null`)
	t.Cleanup(func() { _, _ = run(context.Background(), "docker", "volume", "rm", "shared") })
	plan := sh(t, migrateVars+`layervault migrate plan $from $to`)
	contains(t, "plan", plan, "moved:1 and 2 more tags", "leave", "keeper", "on-failure:3", "nothing: the same vault", "enough")

	sh(t, migrateVars+`
		layervault migrate run $from $to --dir /run/migrate >/dev/null 2>&1 & pid=$!
		until [ -s /run/migrate/state.json ]; do sleep 0.05; kill -0 $pid 2>/dev/null || break; done
		kill -KILL $pid 2>/dev/null || true
		wait $pid || true`)
	report := sh(t, migrateVars+`layervault migrate run $from $to --dir /run/migrate`)
	contains(t, "report", report, "done ", "left ", "nothing was removed")
	sameOnBoth(t)
	report = sh(t, migrateVars+`layervault migrate run $from $to --dir /run/migrate`)
	if strings.Contains(report, "moved  ") {
		t.Errorf("a third run moves again:\n%s", report)
	}
	if got := sh(t, `bash /run/migrate/containers/create.txt >/dev/null; docker inspect -f '{{.HostConfig.RestartPolicy.Name}}' keeper; docker start -a keeper`); got != "on-failure\n2" {
		t.Errorf("the container that was made anew: %q", got)
	}
	out, err := trySh(t, migrateVars+`layervault migrate clean $from $to --dir /run/migrate --yes`)
	if err == nil {
		t.Errorf("clean removed what a container needs:\n%s", out)
	}
	contains(t, "clean", out, "removed noise:1", "in use: container keeper")
	if got := sh(t, migrateVars+`old image ls --format '{{.Repository}}:{{.Tag}}' | sort | tr '\n' ' '`); strings.Contains(got, "noise") || !strings.Contains(got, "moved:1 moved:2") {
		t.Errorf("the old engine has %q", got)
	}
	if got := docker(t, "run", "--rm", "--network", "none", "built:1"); got != "built" {
		t.Errorf("after clean a container says %q", got)
	}
}

// One engine after the other, with the folder between.
func TestMigrateByFolder(t *testing.T) {
	startOld(t, "/run/archive")
	sh(t, migrateVars+`
		if layervault migrate run $from --dir /root 2>/run/refused; then exit 1; fi
		grep 'not on a volume of the vault' /run/refused >/dev/null
		layervault migrate run $from --dir /run/archive --dangling`)
	if err := old.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	report := sh(t, migrateVars+`layervault migrate run $to --dir /run/archive --dangling`)
	contains(t, "report", report, "moved   moved:1", "nothing was removed")
	if err := old.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameOnBoth(t)
	sh(t, migrateVars+`layervault migrate clean $to --dir /run/archive --yes >/dev/null; test -z "$(ls /run/archive/images)"`)
}
