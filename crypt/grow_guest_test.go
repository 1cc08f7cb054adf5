//go:build guest

package crypt_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
	"layervault/crypt/loop"
)

func TestGrow(t *testing.T) {
	const before, after = 64 << 20, 3 << 30
	f, err := os.Create(filepath.Join(t.TempDir(), "fs"))
	must(t, err)
	defer func() { _ = f.Close() }()
	must(t, f.Truncate(before))
	must(t, ext4.Mkfs(t.Context(), f.Name(), ext4.MkfsOptions{Dirs: []ext4.Dir{{Name: "diff", Mode: 0o755}}}))
	d, err := loop.Attach(t.Context(), f, loop.Options{})
	must(t, err)
	defer func() { _ = d.Close() }()
	mnt := t.TempDir()
	must(t, unix.Mount(d.Name(), mnt, "ext4", 0, "noinit_itable"))
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	must(t, os.WriteFile(filepath.Join(mnt, "diff/f"), []byte("x"), 0o600))
	must(t, f.Truncate(after))
	must(t, unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_CAPACITY, 0))
	must(t, ext4.Grow(mnt, after))
	must(t, ext4.Grow(mnt, after))
	var st unix.Statfs_t
	must(t, unix.Statfs(mnt, &st))
	if size := int64(st.Blocks) * st.Bsize; size < after*9/10 {
		t.Errorf("%d bytes, want about %d", size, int64(after))
	}
	must(t, unix.Unmount(mnt, 0))
	sh(t, "e2fsck", "-fn", f.Name())
}
