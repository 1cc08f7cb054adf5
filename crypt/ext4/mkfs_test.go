package ext4

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/loop"
)

func sparse(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "fs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func onDisk(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func mustCheck(t *testing.T, f *os.File) {
	t.Helper()
	mustRun(t, "e2fsck", "-fn", f.Name())
}

func mustRun(t *testing.T, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
}

func mustUnmount(t *testing.T, mnt string) {
	t.Helper()
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
}

func TestMkfs(t *testing.T) {
	for _, size := range []int64{MinSize, 100 << 20, 64 << 30} {
		f := sparse(t, size)
		dirs := []Dir{{Name: "diff", Mode: 0o755, UID: 100000, GID: 100001}, {Name: "work", Mode: 0o700}}
		if err := Mkfs(t.Context(), f.Name(), MkfsOptions{Label: "label", Dirs: dirs}); err != nil {
			t.Fatal(err)
		}
		mustCheck(t, f)
		// The journal is not written yet: 4 MiB more once it is in use.
		if got := onDisk(t, f); got > 2<<20 {
			t.Errorf("%d bytes: %d on disk", size, got)
		}
		s, err := ReadSuper(f)
		if err != nil || s.Size != size || !s.Clean || s.Errors || !s.HasJournal || s.BlockSize != BlockSize {
			t.Errorf("%+v, %v", s, err)
		}
		mnt := mount(t, f, "noinit_itable")
		for _, d := range dirs {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(mnt, d.Name), &st); err != nil {
				t.Fatal(err)
			}
			if st.Mode != unix.S_IFDIR|uint32(d.Mode) || int(st.Uid) != d.UID || int(st.Gid) != d.GID {
				t.Errorf("%s: mode %o, owner %d:%d", d.Name, st.Mode, st.Uid, st.Gid)
			}
		}
	}
}

// Small file systems have an inode for each 4 KiB, as stock mke2fs makes them, and equal
// groups, so that growing keeps the ratio. A template makes the same.
func TestMkfsInodes(t *testing.T) {
	var templates Templates
	for _, tt := range []struct{ size, asked, least, most int64 }{
		{MinSize, 0, 4096, 4112}, {64 << 20, 0, 16384, 16384}, {129 << 20, 0, 33024, 33056}, {500 << 20, 0, 128000, 128064},
		{512 << 20, 0, 65536, 65536}, {64 << 30, 0, 8 << 20, 8 << 20}, {64 << 20, 65536, 65536, 65536}, {64 << 20, 1024, 1024, 1024},
		{1 << 30, 1 << 20, 1 << 20, 1<<20 + 512}, {64 << 30, 10_000_000, 10_000_000, 10_010_000},
	} {
		for name, mkfs := range map[string]func(context.Context, string, MkfsOptions) error{"mke2fs": Mkfs, "template": templates.Mkfs} {
			f := sparse(t, tt.size)
			if err := mkfs(t.Context(), f.Name(), MkfsOptions{Inodes: tt.asked}); err != nil {
				t.Fatal(err)
			}
			mustCheck(t, f)
			s, err := ReadSuper(f)
			if err != nil || s.Inodes < tt.least || s.Inodes > tt.most {
				t.Errorf("%s, %d bytes, asked for %d: %+v, %v", name, tt.size, tt.asked, s, err)
			}
			if groups := ceil(tt.size, s.Group); tt.size < smallSize && s.Group*groups > tt.size+groups*8*BlockSize {
				t.Errorf("%d bytes in groups of %d", tt.size, s.Group)
			}
		}
	}
	for _, n := range []int64{-1, 1, 1023, 16385, MostInodes} {
		if err := Mkfs(t.Context(), sparse(t, MinSize).Name(), MkfsOptions{Inodes: n}); !errors.Is(err, ErrInodes) {
			t.Errorf("%d inodes: %v", n, err)
		}
	}
}

func mount(t *testing.T, f *os.File, data string) string {
	t.Helper()
	d, err := loop.Attach(context.Background(), f, loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	mnt := t.TempDir()
	if err := unix.Mount(d.Name(), mnt, "ext4", 0, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	return mnt
}

func TestMkfsRefuses(t *testing.T) {
	if err := Mkfs(t.Context(), sparse(t, MinSize-1).Name(), MkfsOptions{}); !errors.Is(err, ErrTooSmall) {
		t.Errorf("too small: %v", err)
	}
	if err := Mkfs(t.Context(), sparse(t, MinSize).Name(), MkfsOptions{UUID: "no uuid"}); !errors.Is(err, ErrMkfs) {
		t.Errorf("bad option: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Mkfs(ctx, sparse(t, MinSize).Name(), MkfsOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := lookup("mkfs.nothing"); !errors.Is(err, ErrToolMissing) {
		t.Errorf("missing tool: %v", err)
	}
}

func TestCheck(t *testing.T) {
	f := sparse(t, MinSize)
	if _, err := Check(t.Context(), f.Name()); !errors.Is(err, ErrNotExt4) {
		t.Errorf("empty file: %v", err)
	}
	if err := Mkfs(t.Context(), f.Name(), MkfsOptions{}); err != nil {
		t.Fatal(err)
	}
	if ran, err := Check(t.Context(), f.Name()); ran || err != nil {
		t.Errorf("clean: %v, %v", ran, err)
	}
	// A copy of a mounted file system is what a power cut leaves.
	mnt := mount(t, f, "")
	if err := os.WriteFile(filepath.Join(mnt, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wantRun := range []bool{true, false} {
		if ran, err := Check(t.Context(), cut); ran != wantRun || err != nil {
			t.Errorf("after a power cut: %v, want %v, %v", ran, wantRun, err)
		}
	}
	// Damage that e2fsck -p leaves to a person: the root's inode is gone.
	if out, err := exec.Command("debugfs", "-w", "-R", "clri <2>", cut).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("debugfs", "-w", "-R", "set_super_value state 2", cut).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if ran, err := Check(t.Context(), cut); !ran || !errors.Is(err, ErrNeedsRepair) {
		t.Errorf("damaged: %v, %v", ran, err)
	}
}
