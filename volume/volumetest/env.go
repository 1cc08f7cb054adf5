package volumetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/persist"
	"layervault/volume"
)

// env is one host with volumes.
type env struct {
	*testing.T
	cfg   volume.Config
	store *volume.Store
	// locked makes a tier's key unavailable.
	locked map[persist.Tier]error
	// old makes the tiers accept what is not authenticated.
	old bool
}

func newEnv(t *testing.T, b Backend) *env {
	dir := t.TempDir()
	e := &env{T: t, locked: map[persist.Tier]error{}}
	keys := func(_ context.Context, tier persist.Tier) (crypt.KeySource, error) {
		if err := e.locked[tier]; err != nil {
			return nil, err
		}
		if tier == persist.Clear {
			return nil, errors.New("the clear tier has no key")
		}
		return Keys{Old: e.old, Other: string(tier)}, nil
	}
	e.cfg = volume.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")},
		Mounts: filepath.Join(dir, "mounts"), Scratch: filepath.Join(dir, "scratch"),
		Keys: keys, DefaultSize: 64 << 20, BootID: "boot-1",
	}
	if b.Devices != nil {
		e.cfg.Devices = b.Devices(keys)
	}
	t.Cleanup(func() { UnmountBelow(t, dir) })
	// There is a vault; its ring is the keys' business.
	ring := e.cfg.Layout.KeyRing(persist.Vault)
	e.must(os.MkdirAll(filepath.Dir(ring), 0o700))
	e.must(os.WriteFile(ring, []byte("{}"), 0o600))
	e.open()
	return e
}

// open opens the store again, as another process would.
func (e *env) open() {
	e.Helper()
	if e.store != nil {
		e.must(e.store.Close())
	}
	var err error
	e.store, err = volume.Open(e.Context(), e.cfg)
	e.must(err)
	e.Cleanup(func() { _ = e.store.Close() })
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) fails(err, want error, words ...string) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("got %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			e.Errorf("error %q does not say %q", err, w)
		}
	}
}

func (e *env) create(name string, opts ...string) volume.Volume {
	e.Helper()
	v, err := e.tryCreate(name, opts...)
	e.must(err)
	return v
}

func (e *env) tryCreate(name string, opts ...string) (volume.Volume, error) {
	m := map[string]string{}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	r, err := volume.ParseOptions(m)
	if err != nil {
		return volume.Volume{}, err
	}
	return e.store.Create(e.Context(), name, r)
}

func (e *env) mount(name, id string) string {
	e.Helper()
	dir, err := e.store.Mount(e.Context(), name, id)
	e.must(err)
	return dir
}

func (e *env) unmount(name, id string) {
	e.Helper()
	e.must(e.store.Unmount(e.Context(), name, id))
}

func (e *env) write(dir, text string) {
	e.Helper()
	e.must(os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644))
}

// reads wants the file to hold a text; "" for no file.
func (e *env) reads(dir, want string) {
	e.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if want == "" && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil || string(got) != want {
		e.Fatalf("file holds %q (%v), want %q", got, err, want)
	}
}

func (e *env) absent(path string) {
	e.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		e.Fatalf("%s is still there (%v)", path, err)
	}
}

func (e *env) empty(dir string) {
	e.Helper()
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, os.ErrNotExist) {
		e.must(err)
	}
	if len(entries) > 0 {
		e.Fatalf("%s holds %v", dir, entries)
	}
}

// states wants each volume in a state; what was superseded is none.
func (e *env) states(want map[string]string, superseded ...volume.ID) {
	e.Helper()
	all, err := e.store.InspectAll(e.Context())
	e.must(err)
	got := map[string]string{}
	for _, st := range all {
		if slices.Contains(superseded, st.ID()) {
			if st.State != volume.StateSuperseded {
				e.Errorf("%s is %s", st.ID(), st.State)
			}
			continue
		}
		got[st.Name] = st.State
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("states are %v, want %v", got, want)
	}
}

func (e *env) unlocks(name string) {
	e.Helper()
	e.mount(name, "x")
	e.unmount(name, "x")
}

// container stands for a container: a mount of its own, which ours does not take along.
func (e *env) container(dir string) (at string) {
	e.Helper()
	at = e.TempDir()
	e.must(unix.Mount(dir, at, "", unix.MS_BIND, ""))
	e.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
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

// reboot unmounts everything and begins another boot.
func (e *env) reboot(boot string) {
	e.Helper()
	UnmountBelow(e, filepath.Dir(e.cfg.Mounts))
	e.cfg.BootID = boot
	e.open()
}

// fill writes to a file until it is full, and returns how many bytes it took.
func (e *env) fill(path string) (n int64) {
	e.Helper()
	f, err := os.Create(path)
	e.must(err)
	defer f.Close()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	for {
		m, err := f.Write(chunk)
		n += int64(m)
		if err == nil {
			err = f.Sync()
		}
		if errors.Is(err, unix.ENOSPC) {
			return n
		}
		e.must(err)
	}
}

// endless is content that no file system stores as holes.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i*7 + 1)
	}
	return len(p), nil
}

func onDisk(e *env, path string) int64 {
	e.Helper()
	var st unix.Stat_t
	e.must(unix.Stat(path, &st))
	return st.Blocks * 512
}

func copyFile(e *env, from, to string) {
	e.Helper()
	data, err := os.ReadFile(from)
	e.must(err)
	e.must(os.WriteFile(to, data, 0o600))
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

// UnmountBelow unmounts everything below a folder, as a reboot does.
func UnmountBelow(t testing.TB, dir string) {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Backward(infos) { // the last mount first
		_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH) // what lay below another is gone with it
	}
}
