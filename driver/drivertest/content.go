package drivertest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// capNetRaw is a security.capability value as setcap cap_net_raw+ep writes it
// (version 2, struct vfs_cap_data).
var capNetRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// fill makes one of every kind of file.
func fill(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, dir, "plain", "plain")
	write(t, dir, "empty", "")
	write(t, dir, "deep/er/file", strings.Repeat("0123456789", 10000))
	write(t, dir, "name with spaces, \"quotes\" und Ümläute", "x")
	write(t, dir, strings.Repeat("n", 255), "longest name")
	must(os.MkdirAll(at(strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 100)+"/", 5), "/")), 0o755))
	write(t, dir, strings.Repeat(strings.Repeat("d", 100)+"/", 5)+"file", "long path")
	must(os.Symlink("plain", at("symlink")))
	must(os.Symlink("/etc/passwd", at("absolute link")))
	must(os.Symlink("../../../outside", at("dangling")))
	must(os.Link(at("plain"), at("hard link")))
	must(os.Mkdir(at("sticky"), 0o777))
	must(os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	write(t, dir, "setuid", "x")
	must(os.Chown(at("setuid"), 12, 34))
	must(os.Chmod(at("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(os.Chtimes(at("setuid"), when, when))
	must(os.Lchown(at("symlink"), 1000, 1000))
	must(unix.Mkfifo(at("fifo"), 0o640))
	must(unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(at("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))))
	write(t, dir, "capable", "x")
	must(unix.Lsetxattr(at("capable"), "security.capability", capNetRaw, 0))
	must(os.Chtimes(at("capable"), when, when))
	f, err := os.Create(at("sparse"))
	must(err)
	_, err = f.WriteAt([]byte("end"), 3<<20)
	must(err)
	must(f.Close())
	must(os.Chtimes(at("sparse"), when, when))
}

func testContent(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("from", "")
	var want map[string]string
	b.with("from", func(dir string) {
		fill(t, dir)
		want = snapshot(t, dir)
	})
	b.with("from", func(dir string) { wantSame(t, "written", snapshot(t, dir), want) })

	// Diff and ApplyDiff make the same layer again, and the same tar again.
	data := b.diff("from", "")
	size := b.apply("to", "", data)
	b.with("to", func(dir string) {
		wantSame(t, "applied", snapshot(t, dir), want)
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err == nil {
			t.Error("a sealed layer can be written")
		}
	})
	if again := b.diff("to", ""); !bytes.Equal(data, again) {
		t.Errorf("Diff of the applied layer differs: %d bytes, then %d", len(data), len(again))
	}
	for _, id := range []string{"from", "to"} {
		got, err := b.DiffSize(b.ctx, id, "")
		b.ok(err)
		if got != size {
			t.Errorf("DiffSize of %s is %d, ApplyDiff said %d", id, got, size)
		}
	}

	// Someone else's tar: xattrs and PAX names beyond what Diff writes.
	b.apply("foreign", "", makeTar(t,
		entry{tar.Header{Typeflag: tar.TypeReg, Name: "./dot/slash", Mode: 0o600, Uid: 5, Gid: 6, ModTime: when,
			PAXRecords: map[string]string{"SCHILY.xattr.user.note": "kept"}}, "body"},
		file("/absolute/name", "abs"),
		file("twice", "first"), file("twice", "second"),
	))
	b.with("foreign", func(dir string) {
		wantContent(t, dir, "dot/slash", "body")
		wantContent(t, dir, "absolute/name", "abs")
		wantContent(t, dir, "twice", "second")
		var value [16]byte
		n, err := unix.Lgetxattr(filepath.Join(dir, "dot/slash"), "user.note", value[:])
		if err != nil || string(value[:n]) != "kept" {
			t.Errorf("user.note is %q (%v)", value[:n], err)
		}
	})

	// An empty layer, and one that was never filled, weigh nothing.
	if size := b.apply("empty", "", makeTar(t)); size != 0 {
		t.Errorf("an empty layer has %d bytes", size)
	}
	b.create("fresh", "empty")
	if names := tarNames(t, b.diff("fresh", "empty")); len(names) != 0 {
		t.Errorf("a layer nobody touched holds %v", names)
	}
	b.create("on", "fresh")
	b.with("on", func(dir string) { write(t, dir, "file", "x") })
}

func testOverlay(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("base", "")
	b.with("base", func(dir string) {
		fill(t, dir)
		for _, d := range []string{"gone", "replaced", "merged", "renamed"} {
			write(t, dir, d+"/old", d)
			write(t, dir, d+"/sub/file", d)
		}
	})
	b.create("upper", "base")
	var want map[string]string
	b.with("upper", func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		b.ok(os.RemoveAll(at("gone")))
		b.ok(os.RemoveAll(at("replaced")))
		write(t, dir, "replaced/new", "new")
		write(t, dir, "merged/new", "new")
		b.ok(os.Remove(at("merged/old")))
		b.ok(os.Remove(at("plain")))
		write(t, dir, "empty", "not any more")
		b.ok(os.Chown(at("deep/er/file"), 77, 88))
		b.ok(os.Link(at("deep/er/file"), at("link to copied up")))
		// redirect_dir is off: a program that renames a lower directory copies it.
		if err := os.Rename(at("renamed"), at("elsewhere")); err != nil && !isEXDEV(err) {
			t.Error(err)
		} else if err != nil {
			b.ok(os.CopyFS(at("elsewhere"), os.DirFS(at("renamed"))))
			b.ok(os.RemoveAll(at("renamed")))
		}
		write(t, dir, "elsewhere/old", "renamed")
		write(t, dir, "elsewhere/sub/file", "renamed")
		want = snapshot(t, dir)
		wantOneDevice(t, dir)
	})
	wantGoneAll := func(dir string) {
		for _, name := range []string{"gone", "plain", "replaced/old", "replaced/sub", "merged/old", "renamed"} {
			wantGone(t, dir, name)
		}
	}
	b.with("upper", func(dir string) {
		wantGoneAll(dir)
		wantSame(t, "remounted", snapshot(t, dir), want)
	})

	// The same through a tar.
	data := b.diff("upper", "base")
	for _, name := range []string{".wh.gone", ".wh.plain", "merged/.wh.old", "replaced/.wh..wh..opq"} {
		if !contains(tarNames(t, data), name) {
			t.Errorf("the tar has no %s", name)
		}
	}
	b.apply("sealed-base", "", b.diff("base", ""))
	b.apply("sealed-upper", "sealed-base", data)
	b.with("sealed-upper", func(dir string) {
		wantGoneAll(dir)
		wantSame(t, "applied", snapshot(t, dir), want)
		wantOneDevice(t, dir)
	})
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

func isEXDEV(err error) bool {
	return errors.Is(err, unix.EXDEV)
}

// wantOneDevice checks that all files seem to be on one file system, which find
// -xdev, rsync -x and many an installer rely on.
func wantOneDevice(t *testing.T, dir string) {
	t.Helper()
	devices := map[uint64]string{}
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		devices[fi.Sys().(*syscall.Stat_t).Dev] = name
		return nil
	})
	if err != nil || len(devices) != 1 {
		t.Errorf("files are on %d devices (%v): %v", len(devices), err, devices)
	}
}

func testDeep(t *testing.T, make Factory) {
	const depth = 128
	b := started(t, make)
	parent := ""
	for n := range depth {
		id := fmt.Sprintf("layer-%d", n)
		b.apply(id, parent, makeTar(t, file("top", id), file(id, id)))
		parent = id
	}
	b.ok(b.CreateReadWrite(b.ctx, "container", parent, nil))
	for _, id := range []string{parent, "container"} {
		b.with(id, func(dir string) {
			wantContent(t, dir, "top", parent)
			for n := range depth {
				id := fmt.Sprintf("layer-%d", n)
				wantContent(t, dir, id, id)
			}
		})
	}
}

// A path that no system call can name is left out, as docker's own driver does; all else
// is there.
func testTooLongPath(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("x", "")
	b.with("x", func(dir string) {
		write(t, dir, "near", "near")
		write(t, dir, "zz/last", "last")
		at, err := unix.Open(dir, unix.O_DIRECTORY, 0)
		b.ok(err)
		name := strings.Repeat("d", 200)
		for range 30 {
			b.ok(unix.Mkdirat(at, name, 0o755))
			below, err := unix.Openat(at, name, unix.O_DIRECTORY, 0)
			b.ok(err)
			b.ok(unix.Close(at))
			at = below
		}
		f, err := unix.Openat(at, "deep", unix.O_CREAT|unix.O_WRONLY, 0o600)
		b.ok(err)
		b.ok(unix.Close(f))
		b.ok(unix.Close(at))
	})
	names := tarNames(t, b.diff("x", ""))
	for _, name := range []string{"near", "zz/last", strings.Repeat("d", 200) + "/"} {
		if !contains(names, name) {
			t.Errorf("the tar has no %.20s", name)
		}
	}
	for _, name := range names {
		if strings.HasSuffix(name, "/deep") {
			t.Errorf("a path of %d bytes is in the tar", len(name))
		}
	}
}

func testQuota(t *testing.T, make Factory) {
	b := started(t, make)
	b.apply("base", "", makeTar(t, file("base", "x")))
	b.ok(b.CreateReadWrite(b.ctx, "container", "base", nil)) // 64 MiB
	b.with("container", func(dir string) {
		chunk := bytes.Repeat([]byte("layervault"), 1<<17)
		f, err := os.Create(filepath.Join(dir, "big"))
		b.ok(err)
		written := 0
		for err == nil && written < 2*defaultSize {
			var n int
			n, err = f.Write(chunk)
			written += n
		}
		if err == nil {
			err = f.Sync()
		}
		if !isENOSPC(err) {
			t.Errorf("after %d bytes: %v, want no space left", written, err)
		}
		if written < defaultSize/2 {
			t.Errorf("only %d of %d bytes could be written", written, defaultSize)
		}
		b.ok(f.Close())
		b.ok(os.Remove(filepath.Join(dir, "big")))
		write(t, dir, "small", "fits again")
	})
}
