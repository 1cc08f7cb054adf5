package areatest

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/persist"
)

// Make makes the set of areas below a layout, on images of package crypt or, with Devices, on
// others.
type Make func(l persist.Layout, keys func(context.Context, persist.Tier) (crypt.KeySource, error)) area.Devices

type env struct {
	*testing.T
	cfg area.Config
}

func (e *env) set() *area.Set { return area.New(e.cfg) }

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) is(err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("error %v, want %v", err, want)
	}
}

func (e *env) opened(a persist.Area) *area.Set {
	e.Helper()
	s := e.set()
	_, err := s.Create(e.Context(), a)
	e.must(err)
	e.must(s.Open(e.Context(), a))
	return s
}

// Run is the suite of areas. make is nil for images of package crypt.
func Run(t *testing.T, devices Make) {
	for _, test := range []struct {
		name string
		run  func(*env)
	}{
		{"Lifecycle", lifecycle}, {"Locked", locked}, {"InTheWay", inTheWay}, {"Others", others}, {"Exchanged", exchanged},
		{"Crashes", crashes}, {"Floor", floor}, {"Trim", trim}, {"InUse", inUse},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := Dir(t)
			cfg := area.Config{
				Layout: l, Keys: OpenKeys, Agents: persist.DefaultAgents(), Scratch: filepath.Join(l.Root, "scratch"), Size: 64 << 20,
				Log: slog.New(slog.DiscardHandler),
			}
			if devices != nil {
				cfg.Devices = devices(l, OpenKeys)
			}
			e := &env{t, cfg}
			test.run(e)
			left, err := os.ReadDir(cfg.Scratch)
			if err == nil && len(left) > 0 {
				t.Errorf("left in the scratch folder: %v", left)
			}
		})
	}
}

// lifecycle: what is written comes back, and each call can be repeated.
func lifecycle(e *env) {
	ctx := e.Context()
	s := e.set()
	e.is(s.Open(ctx, persist.Case), area.ErrAbsent)
	for want := range 2 {
		made, err := s.Create(ctx, persist.Case)
		if e.must(err); made != (want == 0) {
			e.Errorf("made: %v", made)
		}
	}
	if st := s.State(persist.Case); st.State != area.StateClosed {
		e.Errorf("state %+v", st)
	}
	at := e.cfg.Layout.Area(persist.Case)
	info, err := os.Stat(at)
	if e.must(err); info.Mode().Perm() != 0 {
		e.Errorf("mount point has mode %v", info.Mode())
	}
	for range 2 {
		e.must(s.Open(ctx, persist.Case))
	}
	info, err = os.Stat(at)
	if e.must(err); info.Mode().Perm() != 0o755 {
		e.Errorf("case has mode %v", info.Mode())
	}
	entries, err := os.ReadDir(at)
	if e.must(err); len(entries) > 0 {
		e.Errorf("a new area has %v", entries)
	}
	e.must(os.WriteFile(filepath.Join(at, "x"), []byte("kept"), 0o600))
	if st := s.State(persist.Case); st.State != area.StateOpen || st.Free == 0 {
		e.Errorf("state %+v", st)
	}
	for range 2 {
		e.must(s.Close(ctx, persist.Case))
	}
	if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
		e.Errorf("below the mount: %v, %v", entries, err)
	}
	e.must(s.Open(ctx, persist.Case))
	if text, err := os.ReadFile(filepath.Join(at, "x")); string(text) != "kept" {
		e.Errorf("%q, %v", text, err)
	}
	e.must(s.Close(ctx, persist.Case))
}

// locked: without the key an area stays closed, and nothing is written in its place.
func locked(e *env) {
	ctx := e.Context()
	_, err := e.set().Create(ctx, persist.Verifier)
	e.must(err)
	why := errors.New("no slot opens")
	e.cfg.Keys = func(context.Context, persist.Tier) (crypt.KeySource, error) { return nil, why }
	if e.cfg.Devices != nil {
		e.cfg.Devices = Devices(e.cfg.Layout, e.cfg.Keys)
	}
	e.is(e.set().Open(ctx, persist.Verifier), why)
	if st := e.set().State(persist.Verifier); st.State != area.StateClosed {
		e.Errorf("state %+v", st)
	}
	at := e.cfg.Layout.Area(persist.Verifier)
	if immutable(at) {
		if err := os.WriteFile(filepath.Join(at, "plain"), nil, 0o600); !errors.Is(err, fs.ErrPermission) {
			e.Errorf("root wrote to the mount point: %v", err)
		}
	}
}

func immutable(at string) bool {
	dir, err := os.Open(at)
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }()
	flags, err := unix.IoctlGetInt(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	return err == nil && flags&unix.STATX_ATTR_IMMUTABLE != 0
}

// inTheWay: what lies at an area's place is neither hidden nor changed.
func inTheWay(e *env) {
	ctx := e.Context()
	at := e.cfg.Layout.Area(persist.Case)
	e.must(os.Mkdir(at, 0o755))
	e.must(os.WriteFile(filepath.Join(at, "plain"), []byte("x"), 0o600))
	_, err := e.set().Create(ctx, persist.Case)
	e.is(err, area.ErrInTheWay)
	if !strings.Contains(err.Error(), "plain") {
		e.Errorf("%v", err)
	}
	if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o755 {
		e.Errorf("%v, %v", info, err)
	}
	e.must(os.RemoveAll(at))
	for _, target := range []string{e.TempDir(), "/proc"} { // a folder, and what is mounted elsewhere
		e.must(os.Symlink(target, at))
		// The link is what is in the way, in every call, and not what it leads to.
		_, err = e.set().Create(ctx, persist.Case)
		st := e.set().State(persist.Case)
		for _, err := range []error{err, e.set().Open(ctx, persist.Case), e.set().Close(ctx, persist.Case), e.set().Bound(ctx, persist.Case)} {
			e.is(err, area.ErrInTheWay)
			if err == nil || !strings.Contains(err.Error(), "no directory") {
				e.Errorf("%v", err)
			}
		}
		if st.State != area.StateDamaged || !strings.Contains(st.Reason, "no directory") {
			e.Errorf("state %+v", st)
		}
		e.must(os.Remove(at))
	}

	_, err = e.set().Create(ctx, persist.Case)
	e.must(err)
	e.must(unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	e.is(e.set().Open(ctx, persist.Case), area.ErrInTheWay)
	e.is(e.set().Close(ctx, persist.Case), area.ErrInTheWay)
	if st := e.set().State(persist.Case); st.State != area.StateDamaged {
		e.Errorf("state %+v", st)
	}
	e.must(unix.Unmount(at, 0))
}

// others: the kernel lets nobody but the agent into its area.
func others(e *env) {
	ctx := e.Context()
	for _, a := range persist.Areas {
		e.opened(a)
	}
	for _, a := range []persist.Area{persist.Downloader, persist.Verifier} {
		for _, other := range persist.Areas {
			uid := e.cfg.Agents.Of(other).UID
			if uid == 0 {
				uid = 65534
			}
			err := As(ctx, uint32(uid), "sh", "-c", `ls "$1" && : >"$1/by-$2"`, "sh", e.cfg.Layout.Area(a), string(other))
			if (err == nil) != (a == other) {
				e.Errorf("%s of %s: %v", a, other, err)
			}
		}
	}
	// Everybody reads containerd's store, and only its owner writes to it.
	at := e.cfg.Layout.Area(persist.Case)
	e.must(As(ctx, 65534, "ls", at))
	if As(ctx, 65534, "touch", at+"/x") == nil {
		e.Error("anybody writes to the case")
	}
	for _, a := range persist.Areas {
		e.must(e.set().Close(ctx, a))
	}
}

// exchanged: an image opens as no other area.
func exchanged(e *env) {
	ctx := e.Context()
	for _, a := range []persist.Area{persist.Downloader, persist.Case} {
		_, err := e.set().Create(ctx, a)
		e.must(err)
	}
	e.must(os.Rename(e.cfg.Layout.AreaImage(persist.Downloader), e.cfg.Layout.AreaImage(persist.Case)))
	e.is(e.set().Open(ctx, persist.Case), luks2.ErrNotAuthentic)
	e.is(e.set().Open(ctx, persist.Downloader), area.ErrAbsent)
}

// crashes: after each step the same call finishes.
func crashes(e *env) {
	ctx := e.Context()
	crash := errors.New("crash")
	for _, at := range []string{"point", "made", "private", "owned", "bound"} {
		reached := false
		e.cfg.Checkpoint = func(step string) error {
			if step != at {
				return nil
			}
			reached = true
			return crash
		}
		s := e.set()
		_, err := s.Create(ctx, persist.Verifier)
		if err == nil {
			err = s.Open(ctx, persist.Verifier)
		}
		if !reached || !errors.Is(err, crash) {
			e.Errorf("%s: reached %v, %v", at, reached, err)
		}
		e.cfg.Checkpoint = nil
		e.must(e.set().Sweep(ctx))
		e.opened(persist.Verifier)
		e.must(e.set().Close(ctx, persist.Verifier))
		_ = area.Unseal(e.cfg.Layout.Area(persist.Verifier))
		e.must(errors.Join(os.Remove(e.cfg.Layout.AreaImage(persist.Verifier)), os.Remove(e.cfg.Layout.Area(persist.Verifier))))
	}
}

// floor: an area takes no more than the disk has above its floor, and takes more again when
// there is more.
func floor(e *env) {
	ctx := e.Context()
	room, err := area.RoomOf(e.cfg.Layout, 0)
	e.must(err)
	// The disk has 8 MiB above the floor, and more or less what others do with it meanwhile.
	const above, others = 8 << 20, 4 << 20
	e.cfg.Floor = room.Free - above - others
	s := e.opened(persist.Case)
	if st := s.State(persist.Case); st.Free > 32<<20 {
		e.Fatalf("this kernel sets no limit, or the disk is in use: %d bytes free", st.Free)
	}
	at := filepath.Join(e.cfg.Layout.Area(persist.Case), "big")
	err = os.WriteFile(at, make([]byte, 40<<20), 0o600)
	e.is(err, syscall.ENOSPC)
	e.must(os.Remove(at))
	e.cfg.Floor = 1
	s = e.set()
	e.must(s.Bound(ctx, persist.Case))
	e.must(os.WriteFile(at, make([]byte, 40<<20), 0o600))
	e.must(s.Close(ctx, persist.Case))
}

// trim: what is deleted comes back.
func trim(e *env) {
	ctx := e.Context()
	s := e.set()
	_, err := s.Create(ctx, persist.Case)
	e.must(err)
	_, _, err = s.Trim(ctx, persist.Case)
	e.is(err, area.ErrClosed)
	e.must(s.Open(ctx, persist.Case))
	at := e.cfg.Layout.Area(persist.Case)
	noise := make([]byte, 24<<20)
	for i := range noise {
		noise[i] = byte(i * 7 >> 3)
	}
	e.must(os.WriteFile(filepath.Join(at, "big"), noise, 0o600))
	sync(e, at)
	full := s.State(persist.Case).Disk
	e.must(os.Remove(filepath.Join(at, "big")))
	_, after, err := s.Trim(ctx, persist.Case)
	e.must(err)
	if full < 24<<20 || after > full-16<<20 {
		e.Errorf("%d bytes on the disk when full, %d after a trim", full, after)
	}
	e.must(s.Close(ctx, persist.Case))
}

func sync(e *env, at string) {
	e.Helper()
	dir, err := os.Open(at)
	e.must(err)
	e.must(errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()))
}

// inUse: an area with a user stays open, and the user is named.
func inUse(e *env) {
	ctx := e.Context()
	s := e.opened(persist.Case)
	f, err := os.Create(filepath.Join(e.cfg.Layout.Area(persist.Case), "x"))
	e.must(err)
	e.is(s.Close(ctx, persist.Case), area.ErrInUse)
	e.must(f.Close())
	e.must(s.Close(ctx, persist.Case))
}
