// Package sample makes the layers and images that the sessions use: a tree with
// one of every kind of file that has ever broken a storage driver, and images of
// many layers, in the format of docker save.
package sample

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// stamp is the time of every file, so that the same tree gives the same digest.
var stamp = time.Unix(1_700_000_000, 0)

// sparseSize is the length of the file that is nearly all hole: large enough to
// show when holes are written out, small enough for an emulated machine.
const sparseSize = 16 << 20

// capNetRaw is a security.capability value: revision 2, effective,
// cap_net_raw (13) permitted (include/uapi/linux/capability.h).
var capNetRaw = string([]byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})

// Odd writes a layer tar with one of every kind of file.
func Odd(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, f := range oddFiles() {
		if err := put(tw, f); err != nil {
			return fmt.Errorf("%s: %w", f.h.Name, err)
		}
	}
	return tw.Close()
}

type file struct {
	h    tar.Header
	body []byte
}

func oddFiles() []file {
	long := strings.Repeat("n", 255)                        // NAME_MAX
	deep := strings.Repeat("a-directory-in-the-path/", 80)  // about 1,900 bytes, below PATH_MAX in a container
	farAway := "/" + strings.Repeat("elsewhere/", 30) + "x" // longer than ext4 keeps inside an inode
	random := noise(1, 1<<20)
	sparse := make([]byte, sparseSize)
	copy(sparse, "first")
	copy(sparse[sparseSize-4:], "last")
	files := []file{
		dir("etc", 0o755), dir("tmp", 0o1777), dir("shared", 0o2775), dir("closed", 0o000), dir("empty-dir", 0o700),
		reg("empty", nil), reg("one-byte", []byte("1")), reg("a-page", noise(2, 4096)), reg("random", random),
		reg("sparse", sparse), reg("etc/"+long, []byte("long name\n")), reg(deep+"bottom", []byte("deep\n")),
		reg("names/with space", []byte("s")), reg("names/with\nnewline", []byte("n")), reg("names/ünïcödé-文", []byte("u")),
		reg("names/-dash", []byte("-")), reg("names/back\\slash", []byte("\\")),
		mode(reg("setuid", []byte("#!")), 0o4755), mode(reg("setgid", []byte("#!")), 0o2755), mode(reg("no-mode", []byte("x")), 0),
		owner(reg("nobody", []byte("x")), 65534, 65534), owner(reg("far-owner", []byte("x")), 60001, 60002),
		xattr(reg("ping", []byte("#!")), "security.capability", capNetRaw),
		xattr(reg("tagged", []byte("x")), "user.small", "value"),
		xattr(reg("tagged-large", []byte("x")), "user.large", string(noise(3, 2000))),
		xattr(dir("tagged-dir", 0o755), "user.dir", "of a directory"),
		link("one-more-name", "random"), link("names/third", "random"),
		sym("relative", "etc/../one-byte"), sym("absolute", "/one-byte"), sym("dangling", "/nowhere"), sym("far", farAway),
		node("null", tar.TypeChar, 1, 3), node("loop-device", tar.TypeBlock, 7, 200), node("fifo", tar.TypeFifo, 0, 0),
	}
	for i := range 300 { // more than one directory block
		files = append(files, reg(fmt.Sprintf("many/file-%03d-%s", i, strings.Repeat("m", 40)), []byte(fmt.Sprint(i))))
	}
	return files
}

func base(name string, kind byte, perm int64) tar.Header {
	return tar.Header{Name: name, Typeflag: kind, Mode: perm, ModTime: stamp, Format: tar.FormatPAX}
}

func dir(name string, perm int64) file { return file{h: base(name+"/", tar.TypeDir, perm)} }

func reg(name string, body []byte) file {
	f := file{h: base(name, tar.TypeReg, 0o644), body: body}
	f.h.Size = int64(len(body))
	return f
}

func link(name, target string) file {
	f := file{h: base(name, tar.TypeLink, 0o644)}
	f.h.Linkname = target
	return f
}

func sym(name, target string) file {
	f := file{h: base(name, tar.TypeSymlink, 0o777)}
	f.h.Linkname = target
	return f
}

func node(name string, kind byte, major, minor int64) file {
	f := file{h: base(name, kind, 0o600)}
	f.h.Devmajor, f.h.Devminor = major, minor
	return f
}

func mode(f file, perm int64) file { f.h.Mode = perm; return f }

func owner(f file, uid, gid int) file { f.h.Uid, f.h.Gid = uid, gid; return f }

func xattr(f file, name, value string) file {
	f.h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return f
}

func put(tw *tar.Writer, f file) error {
	if err := tw.WriteHeader(&f.h); err != nil {
		return err
	}
	_, err := io.Copy(tw, bytes.NewReader(f.body))
	return err
}

// noise is n bytes that do not compress and are the same for one seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}
