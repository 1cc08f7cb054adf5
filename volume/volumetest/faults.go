package volumetest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/persist"
	"layervault/volume"
)

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

// isolated keeps a directory mounted in another mount namespace, which has nothing else of
// ours, until end.
func (e *env) isolated(dir string) (end func()) {
	e.Helper()
	at := e.TempDir()
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount --bind "$1" "$2" && umount "$1" && echo ready && read -r _`, "sh", dir, at)
	in, err := cmd.StdinPipe()
	e.must(err)
	out, err := cmd.StdoutPipe()
	e.must(err)
	cmd.Stderr = os.Stderr
	e.must(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		e.Fatalf("the other namespace says %q, %v", line, err)
	}
	return func() {
		_ = in.Close()
		_ = cmd.Wait() // read fails at the end of its input
	}
}

// testCounters: a controller's generation 1 was taken for the one that a purge on the host
// had made, and the old data stayed.
func testCounters(e *env) {
	v := e.create("vol", "size=32M", "generation=0")
	_, err := e.store.Purge(e.Context(), "vol", volume.Options{})
	e.must(err)
	e.write(e.mount("vol", "1"), "old")
	e.unmount("vol", "1")
	e.create("vol", "size=32M")                 // whatever generation there is
	e.create("vol", "size=32M", "generation=0") // the controller's present one
	e.reads(e.mount("vol", "1"), "old")
	e.unmount("vol", "1")
	next := e.create("vol", "size=32M", "generation=1")
	if next.UUID != v.UUID || next.Generation != 2 || next.Local != 1 {
		e.Errorf("generation %s with %d local ones", next.ID(), next.Local)
	}
	e.reads(e.mount("vol", "1"), "")
	e.unmount("vol", "1")
	e.open()
	if again := e.create("vol", "size=32M", "generation=1"); again.ID() != next.ID() {
		e.Errorf("made %s of %s", again.ID(), next.ID())
	}
	_, err = e.tryCreate("vol", "size=32M", "generation=0")
	e.fails(err, volume.ErrExists, "generation 1")
	e.must(e.store.Remove(e.Context(), "vol"))
}

// testSuperseded: the present generation is damaged, and the one before it lies there still,
// or again. It was mounted as the volume. Also in a tier without a list.
func testSuperseded(e *env) {
	for _, old := range []bool{false, true} {
		e.old = old
		first := e.create("vol", "size=32M")
		keep := filepath.Join(e.TempDir(), "keep")
		copyFile(e, first.Path, keep)
		now, err := e.store.Purge(e.Context(), "vol", volume.Options{})
		e.must(err)
		copyFile(e, keep, first.Path)
		if old {
			e.must(os.Remove(e.cfg.Layout.VolumeList(persist.Vault)))
		}
		e.must(os.WriteFile(now.Path, []byte("not a header"), 0o600))
		e.open()
		_, err = e.store.Mount(e.Context(), "vol", "1")
		e.fails(err, volume.ErrDamaged, now.ID().String())
		_, err = e.tryCreate("vol", "size=32M")
		e.fails(err, volume.ErrDamaged)
		e.states(map[string]string{"vol": volume.StateDamaged}, first.ID())
		done, err := e.store.GC(e.Context(), false)
		e.must(err)
		if len(done) != 1 || done[0].Err == nil {
			e.Errorf("collected %+v", done)
		}
		if _, err := os.Stat(first.Path); err != nil {
			e.Errorf("what may be all that is left was destroyed: %v", err)
		}
		if !old {
			e.must(e.store.Remove(e.Context(), "vol")) // both, as the list knows the name
			e.absent(now.Path)
			e.absent(first.Path)
			continue
		}
		e.fails(e.store.Remove(e.Context(), "vol"), volume.ErrDamaged)
		for _, id := range []volume.ID{now.ID(), first.ID()} {
			e.must(e.store.Remove(e.Context(), id.String()))
		}
	}
	e.old = false
	e.empty(e.cfg.Layout.Volumes(persist.Vault))
}

// testImmutable: a file that forbids its removal made a volume of the clear tier one that
// was gone from the list and could never be removed.
func testImmutable(e *env) {
	v := e.create("vol", "clear=true")
	dir := e.mount("vol", "1")
	for _, flags := range []int{unix.STATX_ATTR_IMMUTABLE, unix.STATX_ATTR_APPEND} { // the same as chattr's
		for _, name := range []string{fmt.Sprint("file", flags), fmt.Sprint("dir", flags)} {
			at := filepath.Join(dir, name)
			if strings.HasPrefix(name, "dir") {
				e.must(os.MkdirAll(filepath.Join(at, "below"), 0o700))
			} else {
				e.must(os.WriteFile(at, []byte("x"), 0o600))
			}
			f, err := os.Open(at)
			e.must(err)
			has, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
			e.must(err)
			err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, has|flags)
			e.must(errors.Join(err, f.Close()))
			if err := os.RemoveAll(at); err == nil {
				e.Fatalf("%s does not forbid its removal", at)
			}
		}
	}
	e.must(os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	e.must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	e.unmount("vol", "1")
	_, err := e.store.Purge(e.Context(), "vol", volume.Options{})
	e.must(err)
	e.absent(v.Path)
	e.must(e.store.Remove(e.Context(), "vol"))
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
}

// testClosed: nobody but root, and the remapped root's group, gets to a volume through the
// folder of mounts, and a person's mount makes nobody root.
func testClosed(e *env) {
	e.must(os.MkdirAll(e.cfg.Mounts, 0o711)) // of an earlier version
	e.must(os.Chmod(e.cfg.Mounts, 0o711))
	e.cfg.MountsGID = 100000
	e.open()
	for _, tt := range [][]string{
		{"plain", "nosuid nodev", "size=32M"}, {"clear", "nosuid nodev", "clear=true"}, {"dev", "nosuid", "size=32M", "mountopts=dev,noexec"},
		{"suid", "nodev", "size=32M", "mountopts=suid"}, {"both", "", "size=32M", "mountopts=suid,dev"},
	} {
		e.create(tt[0], tt[2:]...)
		at := filepath.Join(e.TempDir(), "at")
		e.must(e.store.MountAt(e.Context(), tt[0], at))
		words := strings.Split(optionsAt(e, at), ",")
		for _, flag := range []string{"nosuid", "nodev", "noexec"} {
			want := strings.Contains(tt[1], flag) || strings.Contains(strings.Join(tt[2:], " "), flag)
			if has := slices.Contains(words, flag); has != want {
				e.Errorf("%s is mounted with %v", tt[0], words)
			}
		}
		e.write(at, "x")
		dir := e.mount(tt[0], "1") // a container decides for itself
		if words := optionsAt(e, dir); strings.Contains(words, "nosuid") || strings.Contains(words, "nodev") {
			e.Errorf("%s is mounted for docker with %s", tt[0], words)
		}
		e.reads(dir, "x")
		var st unix.Stat_t
		e.must(unix.Stat(e.cfg.Mounts, &st))
		if st.Mode&0o7777 != 0o710 || st.Gid != 100000 {
			e.Errorf("the folder of mounts has mode %o and group %d", st.Mode, st.Gid)
		}
		e.unmount(tt[0], "1")
		e.must(e.store.UnmountHost(e.Context(), tt[0], at))
	}
	e.empty(e.cfg.Scratch)
}

func optionsAt(e *env, at string) string {
	e.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(at))
	e.must(err)
	if len(infos) == 0 {
		e.Fatalf("nothing is mounted at %s", at)
	}
	return infos[len(infos)-1].Options
}

// testCrashes ends each operation at each step at which the disk is in another state, and
// starts anew: the volume is as it was before, or as it was to become, and repeating the
// operation does it.
func testCrashes(e *env) {
	power := errors.New("the power went")
	operations := map[string]func() error{
		"create": func() error { _, err := e.tryCreate("vol", "size=32M"); return err },
		"clear":  func() error { _, err := e.tryCreate("vol", "clear=true"); return err },
		"purge":  func() error { _, err := e.store.Purge(e.Context(), "vol", volume.Options{}); return err },
		"move": func() error {
			_, err := e.store.Purge(e.Context(), "vol", volume.Options{Tier: persist.Unsealed})
			return err
		},
		"open up": func() error {
			_, err := e.store.Purge(e.Context(), "vol", volume.Options{Tier: persist.Clear})
			return err
		},
		"remove": func() error { return e.store.Remove(e.Context(), "vol") },
	}
	for name, run := range operations {
		for cut := 1; ; cut++ {
			makes := name == "create" || name == "clear"
			if !makes {
				e.create("vol", "size=32M")
				e.write(e.mount("vol", "1"), "before")
				e.unmount("vol", "1")
			}
			steps := 0
			e.cfg.Checkpoint = func(string) error {
				if steps++; steps == cut {
					return power
				}
				return nil
			}
			e.open()
			err := run()
			e.cfg.Checkpoint = nil
			e.open()
			if err == nil {
				break // there is no such step
			}
			e.fails(err, power)
			e.afterCrash(name, cut)
			e.removeAll()
		}
		e.removeAll()
	}
}

func (e *env) afterCrash(name string, cut int) {
	e.Helper()
	when := fmt.Sprintf("%s, cut at step %d", name, cut)
	v, err := e.store.Get(e.Context(), "vol")
	switch {
	case errors.Is(err, volume.ErrNotFound) && (name == "create" || name == "clear" || name == "remove"):
		return
	case err != nil:
		e.Fatalf("%s: %v", when, err)
	}
	dir := e.mount("vol", "1")
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.Fatal(err)
	}
	want := ""
	if name != "create" && name != "clear" && v.Generation == 0 {
		want = "before"
	}
	if string(got) != want {
		e.Errorf("%s: generation %d holds %q, want %q", when, v.Generation, got, want)
	}
	e.unmount("vol", "1")
	done, err := e.store.GC(e.Context(), false)
	e.must(err)
	for _, c := range done {
		e.must(c.Err)
	}
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 1 || all[0].ID() != v.ID() {
		e.Errorf("%s: left %+v", when, all)
	}
}

// removeAll removes every volume and wants nothing to be left, on the disk or in a list.
func (e *env) removeAll() {
	e.Helper()
	all, err := e.store.List(e.Context())
	e.must(err)
	for _, v := range all {
		if !v.Superseded {
			e.must(e.store.Remove(e.Context(), v.Name))
		}
	}
	done, err := e.store.GC(e.Context(), false)
	e.must(err)
	for _, c := range done {
		e.must(c.Err)
	}
	for _, tier := range []persist.Tier{persist.Vault, persist.Unsealed, persist.Clear} {
		e.empty(e.cfg.Layout.Volumes(tier))
		data, err := os.ReadFile(e.cfg.Layout.VolumeList(tier))
		if err == nil && !strings.Contains(string(data), `"volumes": []`) {
			e.Fatalf("the list of %s has: %s", tier, data)
		}
	}
}
