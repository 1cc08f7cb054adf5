package mounts_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/internal/flock"
	"layervault/internal/mounts"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tmpfs mounts one at a new folder of a new name; both go with the test.
func tmpfs(t *testing.T) string {
	t.Helper()
	at := t.TempDir()
	err := unix.Mount("mounts-test", at, "tmpfs", 0, "size=1m")
	if errors.Is(err, unix.EPERM) {
		t.Skip("may not mount")
	}
	must(t, err)
	t.Cleanup(func() { _ = mounts.DetachAll(at) })
	must(t, unix.Mount("", at, "", unix.MS_PRIVATE, ""))
	return at
}

func isMounted(t *testing.T, at string, want bool) {
	t.Helper()
	if got, err := mounts.IsMounted(at); err != nil || got != want {
		t.Errorf("mounted at %s: %t, %v", at, got, err)
	}
}

func TestDetach(t *testing.T) {
	at := tmpfs(t)
	isMounted(t, at, true)
	must(t, os.WriteFile(at+"/file", []byte("x"), 0o600))
	f, err := os.Open(at + "/file")
	must(t, err)
	defer f.Close()
	if err := mounts.Unmount(at); !errors.Is(err, mounts.ErrBusy) {
		t.Errorf("unmounted what is used: %v", err)
	}
	must(t, mounts.Bind(at, at))
	must(t, mounts.Bind(at, at))
	must(t, mounts.Detach(at))
	isMounted(t, at, true)
	must(t, mounts.DetachAll(at))
	isMounted(t, at, false)
	if n, err := f.Read(make([]byte, 1)); n != 1 {
		t.Errorf("an open file of a detached mount: %v", err)
	}
	for _, where := range []string{at, filepath.Join(at, "missing")} {
		isMounted(t, where, false)
		must(t, mounts.Detach(where))
		must(t, mounts.DetachAll(where))
	}
	must(t, mounts.Unmount(at))
	if err := mounts.Unmount(filepath.Join(at, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unmounted a path that does not exist: %v", err)
	}
}

// A link in the place of a mount point leads nowhere.
func TestDetachFollowsNoLink(t *testing.T) {
	at := tmpfs(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(at, link))
	must(t, mounts.Detach(link))
	must(t, mounts.DetachAll(link))
	must(t, mounts.Unmount(link))
	isMounted(t, at, true)
}

func TestBind(t *testing.T) {
	from, at := tmpfs(t), t.TempDir()
	must(t, os.Mkdir(from+"/a", 0o700))
	must(t, os.WriteFile(from+"/a/file", nil, 0o600))
	dir, err := os.Open(from + "/a")
	must(t, err)
	defer dir.Close()
	must(t, os.Rename(from+"/a", from+"/b"))
	must(t, mounts.BindDir(dir, at)) // by the open directory, not by its name
	defer func() { must(t, mounts.DetachAll(at)) }()
	_, err = os.Stat(at + "/file")
	must(t, err)
	if err := mounts.Bind(from+"/a", at); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), from+"/a") {
		t.Errorf("bound what is not there: %v", err)
	}
}

func TestTable(t *testing.T) {
	at := tmpfs(t)
	must(t, os.MkdirAll(at+"/deep/down", 0o700))
	var st unix.Stat_t
	must(t, unix.Stat(at, &st))
	must(t, mounts.Bind(at+"/deep", at+"/deep/down"))
	infos, err := mounts.List(mounts.OnDevice(st.Dev))
	must(t, err)
	if got := mounts.Points(infos); !slices.Equal(got, []string{at, at + "/deep/down"}) {
		t.Errorf("mounts of the device: %v", got)
	}
	for path, want := range map[string]string{at: at, at + "/deep": at, at + "/deep/down/x": at + "/deep/down"} {
		if m, err := mounts.Of(path); err != nil || m.Mountpoint != want || m.FSType != "tmpfs" {
			t.Errorf("%s lies on %+v, %v", path, m, err)
		}
	}
	must(t, os.Mkdir(at+"/later", 0o700))
	must(t, mounts.Bind(at+"/later", at+"/deep/down"))
	if m, err := mounts.Of(at + "/deep/down"); err != nil || m.Root != "/later" {
		t.Errorf("of two at one place: %+v, %v", m, err)
	}
	none, err := mounts.List(func(*mountinfo.Info) bool { return false })
	if err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

// The kernel gave a later mount a lower ID, one that an earlier mount had had.
func TestListReusedID(t *testing.T) {
	var gone []string
	for range 8 { // other processes take free IDs too
		gone = append(gone, tmpfs(t))
	}
	at := tmpfs(t)
	want := []string{at}
	for i, dir := range gone {
		must(t, mounts.DetachAll(dir))
		want = append(want, fmt.Sprintf("%s/%d", at, i))
		must(t, os.Mkdir(want[i+1], 0o700))
		must(t, mounts.Bind(at, want[i+1]))
	}
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return strings.HasPrefix(m.Mountpoint, at) })
	must(t, err)
	if got := mounts.Points(infos); !slices.Equal(got, want) {
		t.Errorf("not in the order of mounting: %v", got)
	}
}

// Another process, in a mount namespace of its own, keeps a mount and is named.
func TestElsewhere(t *testing.T) {
	at := tmpfs(t)
	var st unix.Stat_t
	must(t, unix.Stat(at, &st))
	if text := mounts.HoldersOf(at); !strings.Contains(text, "not visible") {
		t.Errorf("nobody uses it: %s", text)
	}
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	found, err := mounts.Everywhere(mounts.OnDevice(st.Dev))
	must(t, err)
	if len(found) < 2 || found[0].Process != "self" || found[1].Mountpoint != at {
		t.Errorf("found %+v", found)
	}
	if text := mounts.HoldersOfDevice(st.Dev); !strings.Contains(text, "mount at "+at) {
		t.Errorf("a namespace: %s", text)
	}
	user := exec.Command("cat")
	user.Dir = at
	userIn, err := user.StdinPipe()
	must(t, err)
	must(t, user.Start())
	defer func() { _ = userIn.Close(); _ = user.Wait() }()
	if text := mounts.HoldersOf(at); !strings.Contains(text, "cat, cwd)") {
		t.Errorf("a working directory: %s", text)
	}
	if text := mounts.HoldersOf(at + "/missing"); !strings.Contains(text, "unknown process") {
		t.Errorf("no such path: %s", text)
	}
}

func TestScratch(t *testing.T) {
	base := tmpfs(t)
	must(t, os.Mkdir(base+"/real", 0o700))
	must(t, os.Symlink("real", base+"/link"))
	dir := base + "/link"
	must(t, mounts.ReleaseScratch(base+"/missing"))
	must(t, mounts.MountScratch(dir))
	must(t, os.WriteFile(dir+"/left", nil, 0o600))
	m, err := mounts.Of(base + "/real")
	if err != nil || m.FSType != "tmpfs" || m.Optional != "" || !strings.Contains(m.Options, "noexec") {
		t.Errorf("the scratch mount: %+v, %v", m, err)
	}
	must(t, mounts.MountScratch(dir)) // after a kill
	if _, err := os.Stat(dir + "/left"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what an earlier process left: %v", err)
	}
	must(t, mounts.ReleaseScratch(dir))
	isMounted(t, base+"/real", false)
	must(t, mounts.MountScratch(base+"/new"))
	must(t, mounts.ReleaseScratch(base+"/new"))
}

func TestTemp(t *testing.T) {
	dir := filepath.Join(tmpfs(t), "scratch")
	must(t, mounts.SweepTemp(dir)) // nothing there
	at, release, err := mounts.MakeTemp(dir)
	must(t, err)
	must(t, mounts.Bind(dir, at))
	must(t, mounts.SweepTemp(dir)) // its maker lives
	isMounted(t, at, true)

	// What a killed process left: folder and mount, and no lock.
	left := filepath.Join(dir, "mnt-left")
	must(t, os.Mkdir(left, 0o700))
	must(t, mounts.Bind(dir, left))
	must(t, mounts.SweepTemp(dir))
	if _, err := os.Lstat(left); err == nil {
		if tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err == nil {
			_ = unix.Close(tree)
			t.Error("what a dead process left is still there")
		}
		must(t, mounts.DetachAll(left))
		must(t, os.Remove(left))
	}
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, flock.TryLock(f, flock.Exclusive)) // the lock is the folder's, not its parent's

	must(t, release())
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
