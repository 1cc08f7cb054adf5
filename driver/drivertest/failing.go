package drivertest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/driver"
)

// testUndo makes Get fail in the middle and wants nothing to be left of it.
func testUndo(t *testing.T, make Factory) {
	b := started(t, make)
	for n, id := range []string{"a", "b", "c"} {
		b.apply(id, []string{"", "a", "b"}[n], makeTar(t, file(id, id)))
	}
	b.ok(b.CreateReadWrite(b.ctx, "top", "c", nil))
	wantNothing := func() {
		t.Helper()
		// Open devices are no leak here: what was opened last stays warm.
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(b.home))
		if err != nil || len(mounts) != 0 {
			t.Errorf("mounted: %v (%v)", mounts, err)
		}
		if left, err := filepath.Glob(filepath.Join(b.cfg.Scratch, "*")); err != nil || len(left) != 0 {
			t.Errorf("left in scratch: %v (%v)", left, err)
		}
	}

	s, err := b.Store()
	b.ok(err)
	b.ok(s.Cool())
	image := s.ImagePath("b")
	b.ok(os.Rename(image, image+".away"))
	_, err = b.Get(b.ctx, "top", "")
	b.wants(err, crypt.ErrNotExist)
	_, err = b.Diff(b.ctx, "top", "a")
	b.wants(err, crypt.ErrNotExist)
	wantNothing()
	b.ok(os.Rename(image+".away", image))

	// A mount point that is none.
	b.ok(os.MkdirAll(filepath.Join(b.home, "top"), 0o710))
	b.ok(os.WriteFile(filepath.Join(b.home, "top/merged"), nil, 0o600))
	_, err = b.Get(b.ctx, "top", "")
	b.wants(err, unix.ENOTDIR)
	wantNothing()
	b.ok(os.Remove(filepath.Join(b.home, "top/merged")))

	// An SELinux label that no kernel without SELinux, and no policy, knows.
	_, err = b.Get(b.ctx, "top", "no:such:label,")
	if err == nil {
		b.put("top") // SELinux is absent and overlayfs ignores the option
	}
	wantNothing()
	b.with("top", func(dir string) { wantContent(t, dir, "b", "b") })
}

// testNoSpace fills the disk that holds the images.
func testNoSpace(t *testing.T, make Factory) {
	b := newBench(t, make)
	b.ok(os.MkdirAll(b.persist, 0o700))
	b.ok(unix.Mount("tmpfs", b.persist, "tmpfs", 0, "size=32m"))
	t.Cleanup(func() {
		b.ok(b.Close(b.ctx))
		// The kernel closes the images on it some time after their last user.
		if err := unix.Unmount(b.persist, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b.init()
	t.Cleanup(b.removeAll)
	b.apply("small", "", makeTar(t, file("file", "small")))
	noise := bytes.Repeat([]byte("0123456789abcdef"), 64<<20/16)
	b.create("large", "small")
	_, err := b.ApplyDiff(b.ctx, "large", "small", bytes.NewReader(makeTar(t, file("file", string(noise)))))
	if err == nil {
		t.Error("64 MiB fit into 32")
	}
	b.ok(b.Remove(b.ctx, "large"))
	b.apply("after", "small", makeTar(t, file("file", "after")))
	b.with("after", func(dir string) { wantContent(t, dir, "file", "after") })
	b.ok(b.Init(b.ctx, driver.Options{Home: b.home}))
}

// dockerd did not see a layer's mount and wrote to the directory below it, in the clear.
// That was taken for success, and kept the layer from being removed.
func testAstray(t *testing.T, make Factory) {
	var fatal []error
	b := newBench(t, func(cfg *driver.Config) {
		make(cfg)
		cfg.Fatal = func(err error) { fatal = append(fatal, err) }
	})
	b.init()
	b.create("a", "")
	astray := func() {
		t.Helper()
		dir := b.get("a")
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		write(t, dir, "sub/file", "in the clear")
	}
	gone := func(told int) {
		t.Helper()
		wantGone(t, filepath.Join(b.home, "a", "merged"), "")
		if len(fatal) != told {
			t.Errorf("told %d times that a new start is needed, want %d", len(fatal), told)
		}
	}
	astray()
	b.wants(b.Put(b.ctx, "a"), driver.ErrAstray)
	gone(1)
	b.with("a", func(dir string) { write(t, dir, "kept", "kept") }) // no worse for it

	// What the run before could not see in time is deleted at the next start; a layer that
	// is mounted then keeps its files.
	b.create("b", "a")
	mounted := b.get("b")
	write(t, mounted, "mine", "mine")
	astray()
	b.ok(b.Close(b.ctx))
	b.Driver = driver.New(b.cfg)
	b.init()
	gone(1)
	wantContent(t, mounted, "mine", "mine")
	b.put("b")
	b.with("a", func(dir string) { wantContent(t, dir, "kept", "kept") })

	astray()
	b.ok(b.Remove(b.ctx, "b"))
	b.ok(b.Remove(b.ctx, "a"))
	gone(2)
}
