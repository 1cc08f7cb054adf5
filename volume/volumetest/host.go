package volumetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/volume"
)

func testHost(e *env) {
	e.create("hosted")
	at := filepath.Join(e.TempDir(), "deep", "host")
	e.must(e.store.MountAt(e.Context(), "hosted", at))
	e.must(e.store.MountAt(e.Context(), "hosted", at))
	e.write(at, "from the host")
	dir := e.mount("hosted", "1")
	e.reads(dir, "from the host")
	e.unmount("hosted", "1")
	e.reads(at, "from the host")
	second := at + "-2"
	e.must(e.store.MountAt(e.Context(), "hosted", second))
	v, err := e.store.Get(e.Context(), "hosted")
	e.must(err)
	if got, err := e.store.HostMounts(v); err != nil || fmt.Sprint(got) != fmt.Sprint([]string{at, second}) {
		e.Errorf("mounted at %v, %v", got, err)
	}
	e.fails(e.store.Remove(e.Context(), "hosted"), volume.ErrInUse, at)
	open, err := os.Open(filepath.Join(at, "file"))
	e.must(err)
	e.fails(e.store.UnmountHost(e.Context(), "hosted", at), volume.ErrInUse, "used by")
	e.must(open.Close())
	e.must(e.store.UnmountHost(e.Context(), "hosted", ""))
	if got, err := e.store.HostMounts(v); err != nil || len(got) > 0 {
		e.Errorf("mounted at %v, %v", got, err)
	}
	e.must(e.store.UnmountHost(e.Context(), "hosted", ""))
	e.create("inside")
	e.must(e.store.MountAt(e.Context(), "hosted", at))
	e.fails(e.store.MountAt(e.Context(), "inside", at), volume.ErrBusyPath)
	e.fails(e.store.MountAt(e.Context(), "inside", "relative"), volume.ErrBadName)
	e.fails(e.store.MountAt(e.Context(), "inside", filepath.Join(e.cfg.Mounts, "x")), volume.ErrBusyPath)
	e.must(e.store.UnmountHost(e.Context(), "hosted", at))
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

// A person's command beside the plugin sees what docker has mounted, and leaves it alone.
func testBeside(e *env) {
	cfg := e.cfg
	cfg.Mounts, cfg.Scratch = filepath.Join(e.TempDir(), "mounts"), filepath.Join(e.TempDir(), "scratch")
	beside, err := volume.Open(e.Context(), cfg)
	e.must(err)
	defer beside.Close()
	for _, opts := range []string{"size=32M", "clear=true"} {
		v := e.create("vol", opts)
		dir := e.mount("vol", "1")
		e.write(dir, "x")
		e.fails(beside.Remove(e.Context(), "vol"), volume.ErrInUse)
		_, err := beside.Purge(e.Context(), "vol", volume.Options{})
		e.fails(err, volume.ErrInUse)
		e.must(beside.UnmountHost(e.Context(), "vol", ""))
		e.reads(dir, "x")
		if at, err := beside.HostMounts(v); err != nil || len(at) > 0 {
			e.Errorf("%s: docker's mount counts as a person's: %v, %v", opts, at, err)
		}
		if st, err := beside.Inspect(e.Context(), "vol"); err != nil || fmt.Sprint(st.Docker) != "[1]" || st.State != volume.StateMounted || st.Dir != dir {
			e.Errorf("%s: %+v, %v", opts, st, err)
		}
		if entries, err := os.ReadDir(cfg.Mounts); err == nil && len(entries) > 0 {
			e.Errorf("%s: mounted a second time: %v", opts, entries)
		}
		e.unmount("vol", "1")
		e.absent(dir)
		e.must(beside.Remove(e.Context(), "vol"))
		e.absent(v.Path)
	}
}

// testRemade: a volume that the command line removed and made anew under its uuid kept its
// old record for the plugin, where the new file got the inode number of the old one.
func testRemade(e *env) {
	cli, err := volume.Open(e.Context(), e.cfg)
	e.must(err)
	defer cli.Close()
	const id = "11111111-2222-4333-8444-555555555555"
	for _, tier := range []string{"vault", "clear"} {
		for n := range 3 {
			r, err := volume.ParseOptions(map[string]string{"uuid": id, "tier": tier})
			e.must(err)
			want, err := cli.Create(e.Context(), fmt.Sprintf("v%d", n), r)
			e.must(err)
			got, err := e.store.Get(e.Context(), want.ID().String())
			e.must(err)
			if got.Record != want.Record {
				e.Errorf("the plugin says %+v, the command line made %+v", got.Record, want.Record)
			}
			e.must(cli.Remove(e.Context(), want.Name))
		}
	}
}
