package drivertest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// inode is what tells one file from another.
type inode struct{ dev, ino uint64 }

func (b *bench) inode(name string) (inode, uint64) {
	b.Helper()
	var st unix.Stat_t
	b.ok(unix.Lstat(name, &st))
	return inode{uint64(st.Dev), st.Ino}, uint64(st.Nlink) //nolint:unconvert // 32 bit has another type
}

// testInodes: du -x, tar --one-file-system and what else looks at st_dev take a container for
// one file system, and a file is the same one after it was written to, and after a restart.
func testInodes(t *testing.T, make Factory) {
	if _, err := os.Stat(pluginConfig); err != nil { // also tells go test that the result depends on it
		t.Fatal(err)
	}
	for _, lowers := range []int{1, 3, 60} {
		t.Run(fmt.Sprint(lowers, " lower layers"), func(t *testing.T) {
			b := started(t, make)
			parent := ""
			for n := range lowers {
				id := fmt.Sprint("l", n)
				dir := fmt.Sprint("dir", n, "/")
				b.apply(id, parent, makeTar(t, directory(dir), file(dir+"file", "x"), file(fmt.Sprint("file", n), "x"), file(fmt.Sprint("other", n), "x")))
				parent = id
			}
			b.ok(b.CreateReadWrite(b.ctx, "c", parent, nil))
			before := map[string]inode{}
			b.with("c", func(dir string) {
				write(t, dir, "new", "x")
				before = b.inodes(dir)
				for n := range lowers {
					name := fmt.Sprint("file", n)
					f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND, 0)
					b.ok(err)
					_, err = f.WriteString("y")
					b.ok(err)
					b.ok(f.Close())
					b.ok(os.Chmod(filepath.Join(dir, fmt.Sprint("dir", n)), 0o700)) // copies it up
				}
				b.sameInodes("copied up", before, b.inodes(dir))
			})
			// The device is that of the new mount; the numbers must stay.
			b.with("c", func(dir string) { b.sameNumbers("mounted again", before, b.inodes(dir)) })
		})
	}
}

// inodes lists all below a folder, and wants them on one device, no two the same.
func (b *bench) inodes(dir string) map[string]inode {
	b.Helper()
	root, _ := b.inode(dir)
	all, names := map[string]inode{}, map[inode]string{}
	b.ok(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		id, links := b.inode(path)
		name, err := filepath.Rel(dir, path)
		if id.dev != root.dev {
			b.Errorf("%s is on device %d, the root on %d", name, id.dev, root.dev)
		}
		if other := names[id]; other != "" && links == 1 {
			b.Errorf("%s and %s are one file", name, other)
		}
		all[name], names[id] = id, name
		return err
	}))
	return all
}

func (b *bench) sameInodes(when string, before, after map[string]inode) {
	b.Helper()
	for name, was := range before {
		if is := after[name]; is != was {
			b.Errorf("%s: %s was %v, is %v", when, name, was, is)
		}
	}
}

func (b *bench) sameNumbers(when string, before, after map[string]inode) {
	b.Helper()
	for name, was := range before {
		if is := after[name]; is.ino != was.ino {
			b.Errorf("%s: %s was number %d, is %d", when, name, was.ino, is.ino)
		}
	}
}
