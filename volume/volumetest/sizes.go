package volumetest

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func testBound(e *env) {
	e.create("small", "size=32M")
	dir := e.mount("small", "1")
	if n := e.fill(filepath.Join(dir, "fill")); n < 16<<20 || n > 32<<20 {
		e.Errorf("%d bytes fit into 32 MiB", n)
	}
	e.must(os.Remove(filepath.Join(dir, "fill")))
	e.write(dir, "still writing")
	e.unmount("small", "1")
	e.reads(e.mount("small", "2"), "still writing")
	e.unmount("small", "2")
}

func testGrow(e *env) {
	e.create("grown", "size=32M")
	dir := e.mount("grown", "1")
	e.fill(filepath.Join(dir, "fill"))
	e.must(e.store.Grow(e.Context(), "grown", 96<<20))
	if n := e.fill(filepath.Join(dir, "more")); n < 48<<20 {
		e.Errorf("%d bytes more after growing from 32 to 96 MiB", n)
	}
	e.must(e.store.Grow(e.Context(), "grown", 96<<20))
	if err := e.store.Grow(e.Context(), "grown", 64<<20); err == nil {
		e.Error("made smaller")
	}
	e.unmount("grown", "1")
	e.must(e.store.Grow(e.Context(), "grown", 128<<20)) // also while nothing uses it
	e.create("grown", "size=32M")
	e.create("grown", "size=128M")
	dir = e.mount("grown", "2")
	if info, err := os.Stat(filepath.Join(dir, "more")); err != nil || info.Size() < 48<<20 {
		e.Errorf("after growing: %v, %v", info, err)
	}
	var st unix.Statfs_t
	e.must(unix.Statfs(dir, &st))
	if size := int64(st.Blocks) * int64(st.Bsize); size < 110<<20 {
		e.Errorf("file system of %d bytes", size)
	}
	e.unmount("grown", "2")
	// A crash after the file was made longer leaves a volume as good as before, and growing
	// it again finishes what was begun.
	v, err := e.store.Get(e.Context(), "grown")
	e.must(err)
	info, err := os.Stat(v.Path)
	e.must(err)
	e.must(os.Truncate(v.Path, info.Size()+64<<20))
	dir = e.mount("grown", "3")
	e.must(e.store.Grow(e.Context(), "grown", 192<<20))
	e.must(unix.Statfs(dir, &st))
	if size := int64(st.Blocks) * int64(st.Bsize); size < 170<<20 {
		e.Errorf("file system of %d bytes after a growth that was cut short", size)
	}
	e.unmount("grown", "3")
}

func testTrim(e *env) {
	v := e.create("trimmed", "size=96M")
	dir := e.mount("trimmed", "1")
	f, err := os.Create(filepath.Join(dir, "big"))
	e.must(err)
	_, err = io.CopyN(f, endless{}, 48<<20)
	e.must(errors.Join(err, f.Sync(), f.Close()))
	if n := onDisk(e, v.Path); n < 48<<20 {
		e.Fatalf("%d bytes on disk with a file of 48 MiB", n)
	}
	e.must(os.Remove(filepath.Join(dir, "big")))
	before, after, err := e.store.Trim(e.Context(), "trimmed")
	e.must(err)
	if after > 24<<20 || onDisk(e, v.Path) > 24<<20 {
		e.Errorf("%d bytes on disk before trimming, %d after", before, after)
	}
	e.unmount("trimmed", "1")
}
