package drivertest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// testSpecialFiles: what a container makes that a tar has no, or another, word for comes out of
// a commit as with overlay2: a socket is left out, a real file whose name is that of a whiteout
// becomes one, pipes and devices stay with their names.
func testSpecialFiles(t *testing.T, make Factory) {
	b := started(t, make)
	b.apply("base", "", makeTar(t, file("real", "real"), file("other", "other"), directory("dir"), file("dir/real", "real")))
	b.create("c", "base")
	b.with("c", func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		b.ok(unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0))
		b.ok(unix.Mkfifo(at("pipe"), 0o640))
		b.ok(os.Link(at("pipe"), at("dir/pipe too")))
		b.ok(unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		b.ok(unix.Mknod(at("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 9))))
		b.ok(os.Rename(at("block"), at("dir/block")))
		write(t, dir, ".wh.real", "no mark, a file")
		write(t, dir, "dir/.wh.real", "")
		write(t, dir, ".wh.nothing", "")
		b.ok(os.Remove(at("other")))
		b.ok(os.Mkdir(at("other"), 0o700))
		// The kernel keeps its own mark for itself.
		if err := unix.Mknod(at("zero"), unix.S_IFCHR|0o600, 0); err == nil {
			t.Error("a container made overlayfs's whiteout")
		}
	})
	data := b.diff("c", "base")
	names := tarNames(t, data)
	if contains(names, "socket") || !contains(names, ".wh.real") || !contains(names, "dir/.wh.real") {
		t.Errorf("the tar has %q", names)
	}
	b.apply("image", "base", data)
	b.with("image", func(dir string) {
		for _, name := range []string{"socket", "real", ".wh.real", "dir/real", "dir/.wh.real", "nothing", ".wh.nothing"} {
			wantGone(t, dir, name)
		}
		stat := func(name string) unix.Stat_t {
			var st unix.Stat_t
			b.ok(unix.Lstat(filepath.Join(dir, name), &st))
			return st
		}
		pipe, too := stat("pipe"), stat("dir/pipe too")
		if pipe.Mode != unix.S_IFIFO|0o640 || pipe.Nlink != 2 || pipe.Ino != too.Ino {
			t.Errorf("the pipe is %+v, its other name %+v", pipe, too)
		}
		if st := stat("char"); st.Mode != unix.S_IFCHR|0o600 || st.Rdev != unix.Mkdev(1, 3) {
			t.Errorf("the character device is %+v", st)
		}
		if st := stat("dir/block"); st.Mode != unix.S_IFBLK|0o600 || st.Rdev != unix.Mkdev(7, 9) {
			t.Errorf("the block device is %+v", st)
		}
		if st := stat("other"); st.Mode != unix.S_IFDIR|0o700 {
			t.Errorf("what was a file is %+v", st)
		}
	})
}
