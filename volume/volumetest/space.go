package volumetest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/volume"
)

// files makes files of one block until nothing more fits, and says how many and why it ended.
func (e *env) files(dir string) (n int, err error) {
	e.Helper()
	e.must(os.Mkdir(filepath.Join(dir, "many"), 0o700))
	block := make([]byte, 4096)
	for ; ; n++ {
		if err := os.WriteFile(filepath.Join(dir, "many", strconv.Itoa(n)), block, 0o600); err != nil {
			return n, err
		}
	}
}

func (e *env) inodes(dir string) (all, free uint64) {
	e.Helper()
	var st unix.Statfs_t
	e.must(unix.Statfs(dir, &st))
	return st.Files, st.Ffree
}

// testInodes: a small volume is full when its space is, not before, and a person may ask for
// more or fewer inodes.
func testInodes(e *env) {
	e.create("small", "size=32M")
	dir := e.mount("small", "1")
	// Journal, inode tables and folder take the rest.
	if n, err := e.files(dir); !errors.Is(err, unix.ENOSPC) || n < 32<<20/4096*70/100 {
		e.Errorf("%d files of 4 KiB fit into 32 MiB: %v", n, err)
	}
	e.unmount("small", "1")

	for opts, want := range map[string]uint64{"size=32M inodes=16384": 16384, "size=32M inodes=2048": 2048, "size=600M inodes=300000": 300000} {
		e.create("asked", strings.Fields(opts)...)
		all, _ := e.inodes(e.mount("asked", "1"))
		if all < want || all > want+want/50 {
			e.Errorf("%s: %d inodes", opts, all)
		}
		e.unmount("asked", "1")
		e.must(e.store.Remove(e.Context(), "asked"))
	}

	e.create("asked", "size=32M", "inodes=2048")
	e.create("asked", "size=32M", "inodes=2048") // a repetition
	_, err := e.tryCreate("asked", "size=32M", "inodes=4096")
	e.fails(err, volume.ErrExists, "inodes=2048", "inodes=4096")
	st, err := e.store.Inspect(e.Context(), "asked")
	e.must(err)
	if st.Options.Inodes != 2048 {
		e.Errorf("shown with %d inodes", st.Options.Inodes)
	}
	_, err = e.store.Purge(e.Context(), "asked", volume.Options{Inodes: 4096})
	e.must(err)
	if all, _ := e.inodes(e.mount("asked", "1")); all < 4096 || all > 4200 {
		e.Errorf("%d inodes after a purge that asked for 4096", all)
	}
	e.unmount("asked", "1")
	// The store's own size, 64 MiB here, is known only when the image is made.
	_, err = e.tryCreate("too-many", "inodes=65537")
	e.fails(err, volume.ErrBadOption, "65537", "1024 to 65536")
	if _, err := e.store.Get(e.Context(), "too-many"); !errors.Is(err, volume.ErrNotFound) {
		e.Errorf("a volume is left: %v", err)
	}
}

// testGrownInodes: what a volume gains has inodes in the ratio that it was made with.
func testGrownInodes(e *env) {
	for _, tt := range []struct {
		opts  string
		grown int64
	}{
		{"size=16M", 256 << 20}, {"size=64M", 1 << 30}, {"size=129M", 1 << 30}, {"size=500M", 1 << 30}, {"size=1G", 4 << 30},
		{"size=16M inodes=16384", 300 << 20}, {"size=64M inodes=2048", 1 << 30},
	} {
		e.create("grown", strings.Fields(tt.opts)...)
		dir := e.mount("grown", "1")
		before, _ := e.inodes(dir)
		size, err := e.store.Inspect(e.Context(), "grown")
		e.must(err)
		e.must(e.store.Grow(e.Context(), "grown", tt.grown))
		after, free := e.inodes(dir)
		ratio := float64(tt.grown) / float64(size.Size)
		// A group that does not become whole has all its inodes, and 128 MiB are one at most.
		if got := float64(after) / float64(before); got < ratio*0.9 || got > ratio*1.2 {
			e.Errorf("%s, grown %.1f times: %.1f times the inodes, %d", tt.opts, ratio, got, after)
		}
		if free+100 < after {
			e.Errorf("%s: %d of %d inodes free", tt.opts, free, after)
		}
		e.unmount("grown", "1")
		e.must(e.store.Remove(e.Context(), "grown"))
	}
}

// testGrownFull: a volume that was full, emptied, grown, full again and removed leaves no
// device.
func testGrownFull(e *env) {
	e.create("full", "size=32M")
	dir := e.mount("full", "1")
	e.fill(filepath.Join(dir, "fill"))
	e.must(os.Remove(filepath.Join(dir, "fill")))
	e.fill(filepath.Join(dir, "fill"))
	e.unmount("full", "1")
	dir = e.mount("full", "2") // a restart of its container, while it is full
	e.must(e.store.Grow(e.Context(), "full", 96<<20))
	e.must(os.Remove(filepath.Join(dir, "fill")))
	if n := e.fill(filepath.Join(dir, "fill")); n < 70<<20 {
		e.Errorf("%d bytes fit after growing to 96 MiB", n)
	}
	e.unmount("full", "2")
	e.must(e.store.Remove(e.Context(), "full"))
	e.noLoops()
}
