package mountns_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/plugin/mountns"
)

// pluginEnv makes this program play the plugin with this root file system, in a mount
// namespace of its own: it binds the host's directory as docker does, lets go, and says
// what it is left with.
const pluginEnv = "MOUNTNS_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if job := os.Getenv(pluginEnv); job != "" {
		part := strings.Fields(job)
		if err := asPlugin(part[0], part[1], part[2] == "private"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func asPlugin(host, rootfs string, private bool) error {
	root := filepath.Join(filepath.Dir(host), "root")
	bind := func(from, to string, flags uintptr) error { return unix.Mount(from, to, "", unix.MS_BIND|flags, "") }
	makePrivate := func(at string) error { return unix.Mount("", at, "", unix.MS_PRIVATE, "") }
	for _, step := range []func() error{
		func() error { return os.Mkdir(root, 0o700) },
		func() error { return bind(rootfs, root, 0) },
		func() error { return makePrivate(root) },
		// As runc: what holds the plugin's own root becomes private, then its copy is made.
		func() error {
			if !private {
				return nil
			}
			return makePrivate(host)
		},
		func() error { return bind(host, root+"/persist", unix.MS_REC) },
		func() error { return bind("/proc", root+"/proc", 0) },
		func() error { return unix.Chroot(root) },
		func() error { return os.Chdir("/") },
		func() error { return mountns.LetGo("/persist") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter("/persist"))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		fmt.Println(m.Mountpoint)
	}
	return nil
}

// A container ran when the plugin was started again after a crash. When it was removed
// its mount point was busy in the plugin, which held a copy of the mount that nobody saw.
func TestLetGoOfWhatContainersHaveMounted(t *testing.T) {
	for name, c := range map[string]struct{ ownFS, shared bool }{
		"data-root in persist":                    {},
		"data-root with a file system of its own": {ownFS: true},
		"a runtime that leaves mounts shared":     {shared: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mount(t, "tmpfs", dir, "tmpfs", 0) // a private one: what the plugin mounts beside the host's is its own
			t.Cleanup(func() {
				if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
				t.Fatal(err)
			}
			host := filepath.Join(dir, "host")
			mount(t, "tmpfs", host, "tmpfs", 0)
			t.Cleanup(func() {
				if err := unix.Unmount(host, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			share(t, host)
			docker := filepath.Join(host, "docker")
			if c.ownFS {
				mount(t, "tmpfs", docker, "tmpfs", 0)
				share(t, docker)
			}
			// what a person may have mounted there stays, whatever it is for
			mount(t, "tmpfs", filepath.Join(host, "vault"), "tmpfs", 0)
			mount(t, "tmpfs", filepath.Join(host, "vault/layers"), "tmpfs", 0)
			mount(t, "tmpfs", filepath.Join(host, "dockers"), "tmpfs", 0)

			plugin := filepath.Join(docker, "plugins", strings.Repeat("0123456789abcdef", 4))
			rootfs := filepath.Join(plugin, "rootfs")
			for _, dir := range []string{"persist", "proc"} {
				if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			// docker's directory for a plugin's mounts is bound to itself. It is of one peer group
			// with what it lies on, so what is mounted in it is mounted there too, hidden by it.
			propagated := filepath.Join(plugin, "propagated-mount")
			if err := os.Mkdir(propagated, 0o700); err != nil {
				t.Fatal(err)
			}
			mount(t, propagated, propagated, "", unix.MS_BIND)
			mount(t, "tmpfs", filepath.Join(propagated, "layer/merged"), "tmpfs", 0)
			before := mountsBelow(t, host)
			if n := strings.Count(strings.Join(before, " "), "layer/merged"); n != 2 {
				t.Fatalf("the container's mount is there %d times, want it in the open and hidden: %q", n, before)
			}

			propagation := "private"
			if c.shared {
				propagation = "shared"
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), pluginEnv+"="+host+" "+rootfs+" "+propagation)
			// Unshareflags would make everything private.
			cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			left := strings.Fields(string(out))
			slices.Sort(left)
			if want := []string{"/persist", "/persist/dockers", "/persist/vault", "/persist/vault/layers"}; !slices.Equal(left, want) {
				t.Errorf("the plugin is left with %q, want %q", left, want)
			}
			if after := mountsBelow(t, host); !slices.Equal(after, before) {
				t.Errorf("the host has %q mounted, had %q", after, before)
			}
		})
	}
}

// Whoever is no managed plugin shares its mounts with others.
func TestLeaveAHostAlone(t *testing.T) {
	host := t.TempDir()
	at := filepath.Join(host, "docker/plugins", strings.Repeat("0", 64), "rootfs")
	mount(t, "tmpfs", at, "tmpfs", 0)
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	if err := mountns.LetGo(host); err != nil {
		t.Fatal(err)
	}
	if got := mountsBelow(t, host); !slices.Equal(got, []string{at}) {
		t.Errorf("mounted is %q", got)
	}
}

func mount(t *testing.T, source, at, kind string, flags uintptr) {
	t.Helper()
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, at, kind, flags, ""); err != nil {
		t.Fatalf("mount %s: %v", at, err)
	}
}

func share(t *testing.T, at string) {
	t.Helper()
	if err := unix.Mount("", at, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, m := range mounts {
		at = append(at, m.Mountpoint)
	}
	return at
}
