package volumetest

import (
	"bufio"
	"golang.org/x/sys/unix"
	"os/exec"

	"layervault/volume"
)

func testCounts(e *env) {
	e.create("vol")
	dir := e.mount("vol", "one")
	if again := e.mount("vol", "one"); again != dir {
		e.Errorf("mounted at %s and %s", dir, again)
	}
	e.write(dir, "x")
	if second := e.mount("vol", "two"); second != dir {
		e.Errorf("mounted at %s and %s", dir, second)
	}
	e.unmount("vol", "one")
	e.reads(dir, "x")
	e.unmount("vol", "never")
	e.reads(dir, "x")
	e.unmount("vol", "two")
	e.reads(dir, "x") // it was mounted twice under the first id
	e.unmount("vol", "one")
	e.absent(dir)
	// Somebody unmounts behind our back: the next mount is a mount.
	e.mount("vol", "three")
	e.must(unix.Unmount(dir, 0))
	e.reads(e.mount("vol", "four"), "x")
	e.unmount("vol", "three")
	e.reads(dir, "x")
	e.unmount("vol", "four")
	e.absent(dir)
}

func testRestart(e *env) {
	e.create("vol")
	dir := e.mount("vol", "one")
	e.write(dir, "x")
	inside := e.container(dir)
	// The plugin is restarted while a container runs: the count goes on.
	e.open()
	e.must(e.store.Heal(e.Context()))
	e.reads(dir, "x")
	e.mount("vol", "two")
	e.unmount("vol", "one")
	e.reads(dir, "x")
	e.mount("vol", "one")
	e.unmount("vol", "two")
	e.reads(inside, "x")
	// The container goes, and docker never says so: the next start heals that.
	e.must(unix.Unmount(inside, 0))
	e.open()
	e.must(e.store.Heal(e.Context()))
	e.absent(dir)
	e.unmount("vol", "one") // it may still come
	// Nor does a missed unmount keep docker from removing the volume.
	e.mount("vol", "three")
	e.must(e.store.Remove(e.Context(), "vol"))
	e.absent(dir)
	e.open()
	e.must(e.store.Heal(e.Context()))
}

func testInUse(e *env) {
	v := e.create("busy")
	inside := e.container(e.mount("busy", "1"))
	e.write(inside, "x")
	e.fails(e.store.Remove(e.Context(), "busy"), volume.ErrInUse, inside)
	e.reads(inside, "x")
	e.unmount("busy", "1")
	e.fails(e.store.Remove(e.Context(), "busy"), volume.ErrInUse)
	e.must(unix.Unmount(inside, 0))
	e.must(e.store.Remove(e.Context(), "busy"))
	e.absent(v.Path)
}

// testCopying: docker cp mounts a running container's volumes once more, and unmounts them,
// under the ids of the container's own mounts. The volume was then taken for unused, and one
// of the clear tier removed under its container.
func testCopying(e *env) {
	for _, opts := range []string{"clear=true", "size=32M"} {
		e.create("vol", opts)
		dir := e.mount("vol", "container")
		inside := e.container(dir)
		e.write(inside, "x")
		e.unmount("vol", "another") // of nobody
		for range 2 {
			if at := e.mount("vol", "container"); at != dir {
				e.Errorf("copied from %s, mounted at %s", at, dir)
			}
			e.unmount("vol", "container")
			e.reads(dir, "x")
		}
		e.fails(e.store.Remove(e.Context(), "vol"), volume.ErrInUse, inside)
		_, err := e.store.Purge(e.Context(), "vol", volume.Options{})
		e.fails(err, volume.ErrInUse)
		e.reads(inside, "x")
		e.reads(dir, "x") // the refusal took nothing away
		e.open()          // the count is kept by no process
		e.mount("vol", "container")
		e.unmount("vol", "container")
		e.reads(dir, "x")
		// Docker forgets the container's mount: the kernel still knows it.
		e.unmount("vol", "container")
		e.absent(dir)
		e.fails(e.store.Remove(e.Context(), "vol"), volume.ErrInUse)
		e.reads(inside, "x")
		e.must(unix.Unmount(inside, 0))
		e.must(e.store.Remove(e.Context(), "vol"))
	}
	// The host has another revision meanwhile: an id keeps its place.
	e.must(e.store.SetRevision(e.Context(), "r1"))
	e.create("rev", "persistence=revision", "size=32M")
	one := e.mount("rev", "container")
	e.write(one, "r1")
	e.must(e.store.SetRevision(e.Context(), "r2"))
	e.reads(e.mount("rev", "container"), "r1")
	two := e.mount("rev", "another")
	e.reads(two, "")
	e.unmount("rev", "container")
	e.reads(one, "r1")
	e.unmount("rev", "container")
	e.absent(one)
	e.unmount("rev", "another")
	e.absent(two)
	e.reads(e.mount("rev", "container"), "") // a new life of the id is of the present revision
	e.unmount("rev", "container")
	e.must(e.store.Remove(e.Context(), "rev"))
}

// testNamespace: a container's mount is in a mount namespace of its own, and docker has
// forgotten it: the kernel's word keeps the volume.
func testNamespace(e *env) {
	for _, opts := range []string{"clear=true", "size=32M"} {
		e.create("vol", opts)
		dir := e.mount("vol", "1")
		e.write(dir, "x")
		end := e.isolated(dir)
		for range 2 {
			e.fails(e.store.Remove(e.Context(), "vol"), volume.ErrInUse)
			_, err := e.store.Purge(e.Context(), "vol", volume.Options{})
			e.fails(err, volume.ErrInUse)
		}
		e.reads(dir, "x")
		e.unmount("vol", "1")
		e.fails(e.store.Remove(e.Context(), "vol"), volume.ErrInUse, "process")
		e.reads(e.mount("vol", "2"), "x")
		e.unmount("vol", "2")
		end()
		e.must(e.store.Remove(e.Context(), "vol"))
	}
}

// testStarting: `docker volume rm` was refused while another container started, which for
// some milliseconds has a copy of all mounts.
func testStarting(e *env) {
	for _, opts := range []string{"clear=true", "size=32M"} {
		e.create("vol", opts)
		e.mount("vol", "1")
		cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready && sleep 0.3")
		out, err := cmd.StdoutPipe()
		e.must(err)
		e.must(cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "ready\n" {
			e.Fatalf("the other namespace says %q, %v", line, err)
		}
		e.must(e.store.Remove(e.Context(), "vol"))
		e.must(cmd.Wait())
	}
}
