package layertar_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	archive "github.com/moby/go-archive"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"layervault/crypt/layertar"
	"layervault/crypt/loop"
)

// item is one entry of a test's tar.
type item struct {
	tar.Header
	body string
}

func file(name, body string) item {
	return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}

func directory(name string, mode int64) item {
	return item{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func symlink(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hardlink(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, ""}
}

func (i item) xattr(name, value string) item {
	i.PAXRecords = maps.Clone(i.PAXRecords)
	if i.PAXRecords == nil {
		i.PAXRecords = map[string]string{}
	}
	i.PAXRecords[paxXattr+name] = value
	return i
}

// owner takes ids of 32 bits, which an int of arm cannot hold.
func (i item) owner(uid, gid int64) item { i.Uid, i.Gid = int(uid), int(gid); return i }

func makeTar(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := i.Header
		h.Size = int64(len(i.body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1340000000, 123456789)
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// build writes an image from a tar, has it checked for any fault, mounts it, and
// returns the content's directory.
func build(t testing.TB, fs format, r io.Reader, o layertar.Options) (dir string, result layertar.Result) {
	t.Helper()
	o.Dir = "diff"
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	result, err = fs.fromTar(t.Context(), r, f, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(result.Size); err != nil {
		t.Fatal(err)
	}
	if err := fs.check(f.Name()); err != nil {
		t.Fatal(err)
	}
	d, err := loop.Attach(context.Background(), f, loop.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	mnt := t.TempDir()
	if err := unix.Mount(d.Name(), mnt, fs.name, unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(mnt, "diff"), result
}

// state is what a comparison looks at.
type state struct {
	Mode     iofs.FileMode
	UID, GID uint32
	Size     int64
	Mtime    string
	Rdev     uint64
	Nlink    uint64
	Target   string
	Sum      string
	First    string // the first path that names this file
	Xattrs   map[string]string
}

func tree(t testing.TB, root string) map[string]state {
	t.Helper()
	found, first := map[string]state{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := state{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Rdev: uint64(st.Rdev), Xattrs: attributes(t, path),
			Mtime: info.ModTime().UTC().Format(time.RFC3339Nano)}
		if !d.IsDir() {
			s.Size, s.Nlink = st.Size, uint64(st.Nlink)
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			s.First = first[st.Ino]
		}
		switch {
		case d.Type()&iofs.ModeSymlink != 0:
			s.Target, err = os.Readlink(path)
		case d.Type().IsRegular():
			h := sha256.New()
			var f *os.File
			if f, err = os.Open(path); err == nil {
				_, err = io.Copy(h, f)
				_ = f.Close()
			}
			s.Sum = fmt.Sprintf("%x", h.Sum(nil))
		}
		found[rel] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func attributes(t testing.TB, path string) map[string]string {
	t.Helper()
	n, err := unix.Llistxattr(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, n)
	n, err = unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 8<<10)
		k, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		found[name] = string(value[:k])
	}
	return found
}

// size is docker's measure of a layer.
func size(nodes map[string]state) (sum int64) {
	for path, s := range nodes {
		if !s.Mode.IsDir() && s.First == path {
			sum += s.Size
		}
	}
	return sum
}

// Every tar that docker unpacks gives the same tree, file by file.
func TestFromTarAsDockerUnpacks(t *testing.T) { eachFormat(t, testFromTarAsDockerUnpacks) }

func testFromTarAsDockerUnpacks(t *testing.T, fs format) {
	long := strings.Repeat("n", 250)
	random := rand.NewChaCha8([32]byte{1})
	big := make([]byte, 5<<20+17)
	_, _ = random.Read(big)
	sparse := make([]byte, 3<<20)
	copy(sparse[1<<20:], "island")
	for name, items := range map[string][]item{
		"empty": nil,
		"kinds": {
			directory("etc", 0o755), file("etc/passwd", "root:x:0:0"), file("etc/empty", ""),
			symlink("etc/link", "/etc/passwd"), symlink("long", strings.Repeat("t/", 200)), symlink("sixty", strings.Repeat("s", 60)),
			symlink("fiftynine", strings.Repeat("s", 59)), hardlink("hard", "etc/passwd"), hardlink("hard2", "/hard"), hardlink("linklink", "etc/link"),
			{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}, ""},
			{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
			{tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Devmajor: 259, Devminor: 34000}, ""},
		},
		"modes": {
			{tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o4755}, "x"}, {tar.Header{Typeflag: tar.TypeReg, Name: "sg", Mode: 0o2711}, "x"},
			directory("tmp", 0o1777), directory("shared", 0o2775), {tar.Header{Typeflag: tar.TypeReg, Name: "none", Mode: 0}, "x"},
		},
		"owners":         {file("a", "1").owner(1000, 100), file("b", "2").owner(65534, 65534), file("c", "3").owner(3000000, 4000000000), directory("d", 0o700).owner(5, 6)},
		"no parents":     {file("a/b/c/d", "deep"), file("a/x", "y")},
		"parent later":   {file("a/b/c", "1"), directory("a/b", 0o700).owner(7, 8), directory("a", 0o711)},
		"absolute":       {file("/abs/file", "1"), hardlink("/h", "/abs/file"), file("./dot/./x/../y", "2")},
		"names":          {file(long+"/"+long+"/"+long, "1"), file("sp ace\nnew\tline", "2"), file("\xff\xfe\x80", "3"), file("ümlaut/日本", "4"), file("..x", "5"), file("...", "6")},
		"whiteouts":      {directory("d", 0o755), file("d/.wh.gone", ""), file(".wh.top", ""), directory("o", 0o755), file("o/.wh..wh..opq", ""), file("o/new", "1"), file("x/y/.wh.z", ""), file("p/q/.wh..wh..opq", "")},
		"whiteout owner": {file(".wh.a", "").owner(10, 11)},
		"xattrs": {
			file("cap", "1").xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
			file("user", "1").xattr("user.note", "hello").xattr("user.empty", ""),
			file("many", "1").xattr("user.b", strings.Repeat("b", 300)).xattr("security.a", strings.Repeat("a", 400)).xattr("user.aaaa", strings.Repeat("c", 101)).xattr("trusted.z", strings.Repeat("d", 200)),
			directory("dir", 0o755).xattr("user.d", "dir"),
			file("odd", "1").xattr("user.odd1", "1").xattr("user.odd3", "123").xattr("user.odd5", "12345"),
			file("full", "1").xattr("user.x", strings.Repeat("x", 3900)),
			directory("dirfull", 0o755).xattr("user.x", strings.Repeat("x", 3900)),
			file("acl", "1").xattr("system.posix_acl_access", "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"),
		},
		"times": {
			{tar.Header{Typeflag: tar.TypeReg, Name: "old", ModTime: time.Unix(-5, 7)}, "1"}, {tar.Header{Typeflag: tar.TypeReg, Name: "2100", ModTime: time.Unix(4102444800, 999999999)}, "1"},
			{tar.Header{Typeflag: tar.TypeReg, Name: "2200", ModTime: time.Unix(7258118400, 1)}, "1"}, {tar.Header{Typeflag: tar.TypeReg, Name: "epoch", ModTime: time.Unix(0, 1)}, "1"},
		},
		"sizes":      {file("big", string(big)), file("sparse", string(sparse)), file("zeros", string(make([]byte, 200000))), file("block", string(big[:4096])), file("block1", string(big[:4097])), file("one", "x")},
		"duplicates": {file("f", "first"), hardlink("h", "f"), file("f", "second, longer"), directory("d", 0o755), file("d/x", "1"), file("d", "now a file"), file("e", "file"), directory("e", 0o755), file("e/in", "1"), symlink("s", "1"), symlink("s", "2"), file("big", string(big[:100000])), file("big", ""), hardlink("h2", "h"), hardlink("f", "h2")},
	} {
		t.Run(name, func(t *testing.T) {
			body := makeTar(t, items...)
			want := t.TempDir()
			if err := os.Chmod(want, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := archive.Unpack(bytes.NewReader(body), want, &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat}); err != nil {
				t.Fatal(err)
			}
			got, result := build(t, fs, bytes.NewReader(body), layertar.Options{})
			a, b := tree(t, want), tree(t, got)
			// When they were made, which both take from the clock.
			for _, nodes := range []map[string]state{a, b} {
				for path, s := range nodes {
					implied := !slices.ContainsFunc(items, func(i item) bool { return filepath.Clean(strings.TrimLeft(i.Name, "/")) == path })
					if implied {
						s.Mtime = ""
						nodes[path] = s
					}
				}
			}
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("docker's unpacking (-), ours (+):\n%s", diff)
			}
			if want := size(a); result.ContentSize != want {
				t.Errorf("content size %d, want %d", result.ContentSize, want)
			}
		})
	}
}

// Directories of each shape: a list, an index of one level and of two.
func TestFromTarLargeDirectories(t *testing.T) { eachFormat(t, testFromTarLargeDirectories) }

func testFromTarLargeDirectories(t *testing.T, fs format) {
	for _, n := range []int{50, 300, 5000, 12000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			pad := ""
			if n == 12000 {
				pad = strings.Repeat("x", 200) // 18 names a block: more leaves than the root has room for
			}
			items := make([]item, n)
			for i := range items {
				items[i] = file(fmt.Sprintf("d/%sfile-%d", pad, i), "")
			}
			dir, _ := build(t, fs, bytes.NewReader(makeTar(t, items...)), layertar.Options{})
			entries, err := os.ReadDir(filepath.Join(dir, "d"))
			if err != nil || len(entries) != n {
				t.Fatalf("%d entries, want %d, %v", len(entries), n, err)
			}
			for i := range items { // each by look-up, through the index
				if _, err := os.Lstat(filepath.Join(dir, items[i].Name)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// More inodes than the blocks of their content would bring along, and many groups.
func TestFromTarManyInodes(t *testing.T) { eachFormat(t, testFromTarManyInodes) }

func testFromTarManyInodes(t *testing.T, fs format) {
	items := []item{}
	for i := range 34000 {
		items = append(items, file(fmt.Sprintf("%d/%d", i%340, i), ""))
	}
	dir, result := build(t, fs, bytes.NewReader(makeTar(t, items...)), layertar.Options{})
	if n := len(tree(t, dir)); n != 34000+340+1 {
		t.Errorf("%d files", n)
	}
	if result.ContentSize != 0 {
		t.Errorf("content size %d", result.ContentSize)
	}
}

func TestFromTarRefuses(t *testing.T) { eachFormat(t, testFromTarRefuses) }

func testFromTarRefuses(t *testing.T, fs format) {
	whole := makeTar(t, file("a", strings.Repeat("content ", 1000)), file("b", "more"), file("c", ""))
	damaged := slices.Clone(whole)
	damaged[148] ^= 0xff // checksum
	maps1000 := []user.IDMap{{ID: 0, ParentID: 100000, Count: 1000}}
	for _, c := range []struct {
		name string
		body []byte
		want error
		o    layertar.Options
	}{
		{name: "damaged header", body: damaged, want: layertar.ErrBadTar},
		{name: "no tar", body: bytes.Repeat([]byte("not a tar "), 200), want: layertar.ErrBadTar},
		{name: "dot dot", body: makeTar(t, file("../x", "")), want: layertar.ErrBreakout},
		{name: "dot dot inside", body: makeTar(t, file("a/../../x", "")), want: layertar.ErrBreakout},
		{name: "absolute dot dot", body: makeTar(t, file("/../x", "")), want: layertar.ErrBreakout},
		{name: "name too long", body: makeTar(t, file(strings.Repeat("n", 256), "")), want: layertar.ErrName},
		{name: "path too long", body: makeTar(t, file(strings.Repeat("n/", 2100)+"n", "")), want: layertar.ErrName},
		{name: "hard link to nothing", body: makeTar(t, hardlink("a", "b")), want: layertar.ErrLinkTarget},
		{name: "hard link to a later one", body: makeTar(t, hardlink("a", "b"), file("b", "")), want: layertar.ErrLinkTarget},
		{name: "hard link to a directory", body: makeTar(t, directory("b", 0o755), hardlink("a", "b")), want: layertar.ErrLinkTarget},
		{name: "hard link out", body: makeTar(t, hardlink("a", "../../etc/shadow")), want: layertar.ErrBreakout},
		{name: "hard link through a symbolic link", body: makeTar(t, symlink("s", "/etc"), hardlink("a", "s/shadow")), want: layertar.ErrLinkTarget},
		{name: "below a symbolic link", body: makeTar(t, symlink("s", "/etc"), file("s/x", "")), want: layertar.ErrParent},
		{name: "below a file", body: makeTar(t, file("f", "1"), file("f/x", "")), want: layertar.ErrParent},
		{name: "root as a file", body: makeTar(t, symlink(".", "x")), want: layertar.ErrEntryType},
		{name: "whiteout of nothing", body: makeTar(t, file("d/.wh.", "")), want: layertar.ErrName},
		{name: "whiteout of dot dot", body: makeTar(t, file("d/.wh...", "")), want: layertar.ErrName},
		{name: "xattr too large", body: makeTar(t, file("x", "").xattr("user.x", strings.Repeat("x", 4096))), want: layertar.ErrXattr},
		{name: "not an access control list", body: makeTar(t, file("x", "").xattr("system.posix_acl_access", "acl")), want: layertar.ErrXattr},
		{name: "unmapped owner", body: makeTar(t, file("x", "").owner(1000, 0)), want: layertar.ErrUnmappedID, o: layertar.Options{UIDMaps: maps1000, GIDMaps: maps1000}},
		{name: "unmapped root", body: makeTar(t), want: layertar.ErrUnmappedID, o: layertar.Options{UIDMaps: []user.IDMap{{ID: 5, ParentID: 5, Count: 1}}}},
		{name: "no owner", body: makeTar(t, file("x", "").owner(1<<32-1, 0)), want: layertar.ErrUnmappedID},
		{name: "long symbolic link", body: makeTar(t, symlink("s", strings.Repeat("x", 4096))), want: layertar.ErrSymlink},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Dir = "diff"
			_, err := fs.fromTar(t.Context(), bytes.NewReader(c.body), discard{}, c.o)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// Wherever the stream is cut off within an entry, that is seen. Between entries it is
// whole, as for docker, and so it is where only the last entry's padding is missing.
func TestFromTarCutOff(t *testing.T) { eachFormat(t, testFromTarCutOff) }

func testFromTarCutOff(t *testing.T, fs format) {
	whole := makeTar(t, file("a", strings.Repeat("content ", 1000)), file("b", "more"), file("c", ""))
	ends := map[int]bool{0: true}
	at := 0
	for _, size := range []int{8000, 4, 0} {
		at += 3*512 + size // PAX header, its records, header
		for next := (at + 511) / 512 * 512; at <= next; at++ {
			ends[at] = true
		}
		at--
	}
	for n := range len(whole) + 1 {
		if n%512 > 1 && n%512 < 511 && n%100 != 0 && !ends[n] {
			continue
		}
		_, err := fs.fromTar(t.Context(), bytes.NewReader(whole[:n]), discard{}, layertar.Options{Dir: "diff"})
		switch complete := ends[n] || n >= len(whole)-1024 && n%512 == 0; {
		case complete && err != nil:
			t.Fatalf("cut off at %d: %v", n, err)
		case !complete && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Fatalf("cut off at %d: %v", n, err)
		}
	}
}

// discard takes an image and forgets it.
type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func TestFromTarOverlayAttributes(t *testing.T) { eachFormat(t, testFromTarOverlayAttributes) }

func testFromTarOverlayAttributes(t *testing.T, fs format) {
	dir, _ := build(t, fs, bytes.NewReader(makeTar(t,
		directory("a", 0o755).xattr("trusted.overlay.redirect", "/elsewhere").xattr("trusted.overlay.opaque", "y").xattr("user.keep", "1"),
		file("f", "1").xattr("trusted.overlay.metacopy", ""),
		file("d/.wh..wh..opq", ""), directory("d", 0o755).xattr("user.late", "1"),
		file(".wh.w", ""), file("w/inside", "1"),
		directory("x", 0o755), file("x/kept", "1"), file(".wh.x", ""),
		file("y", "kept"), file(".wh.y", ""), symlink("sym", "t").xattr("trusted.s", "sym").xattr("user.none", "left out"),
		file(".wh..wh.plnk/1", "aufs"), file(".wh..wh.aufs", "aufs"), file("s/.wh..wh.orph", "aufs"),
	)), layertar.Options{})
	got := tree(t, dir)
	for path, want := range map[string]map[string]string{
		"a": {"user.keep": "1"}, "f": {}, "d": {"trusted.overlay.opaque": "y", "user.late": "1"},
		"w": {"trusted.overlay.opaque": "y"}, "w/inside": {}, "x": {"trusted.overlay.opaque": "y"}, "x/kept": {}, "y": {}, "sym": {"trusted.s": "sym"},
	} {
		s, ok := got[path]
		if !ok {
			t.Errorf("%s is missing", path)
		} else if diff := cmp.Diff(want, s.Xattrs); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	// aufs's own names are whiteouts like others.
	for _, path := range []string{".wh.aufs", "s/.wh.orph"} {
		if s := got[path]; s.Mode&iofs.ModeCharDevice == 0 || s.Rdev != 0 {
			t.Errorf("%s is %v", path, s.Mode)
		}
	}
	if _, ok := got[".wh..wh.plnk/1"]; !ok {
		t.Error("what hard links name is missing")
	}
}

func TestFromTarMapsOwners(t *testing.T) { eachFormat(t, testFromTarMapsOwners) }

func testFromTarMapsOwners(t *testing.T, fs format) {
	m := []user.IDMap{{ID: 0, ParentID: 100000, Count: 65536}}
	dir, _ := build(t, fs, bytes.NewReader(makeTar(t,
		directory("./", 0o750).owner(3, 4), file("implied/f", "").owner(1000, 5), file(".wh.w", ""))), layertar.Options{UIDMaps: m, GIDMaps: m})
	got := tree(t, dir)
	for path, want := range map[string][2]uint32{".": {100003, 100004}, "implied": {100000, 100000}, "implied/f": {101000, 100005}, "w": {100000, 100000}} {
		if s := got[path]; s.UID != want[0] || s.GID != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", path, s.UID, s.GID, want)
		}
	}
	if got["."].Mode.Perm() != 0o750 {
		t.Errorf("root has mode %v", got["."].Mode)
	}
}

func TestFromTarReadsToTheEnd(t *testing.T) { eachFormat(t, testFromTarReadsToTheEnd) }

func testFromTarReadsToTheEnd(t *testing.T, fs format) {
	body := append(makeTar(t, file("a", "1")), bytes.Repeat([]byte{7}, 3<<20)...)
	r := bytes.NewReader(body)
	dir, _ := build(t, fs, r, layertar.Options{})
	if r.Len() != 0 {
		t.Errorf("%d bytes were left unread", r.Len())
	}
	if len(tree(t, dir)) != 2 {
		t.Error("padding was taken for content")
	}
}

func TestFromTarErrors(t *testing.T) { eachFormat(t, testFromTarErrors) }

func testFromTarErrors(t *testing.T, fs format) {
	body := makeTar(t, file("a", strings.Repeat("x", 20<<20)))
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := fs.fromTar(ctx, bytes.NewReader(body), discard{}, layertar.Options{Dir: "diff"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("cancelled while the peer sends nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		go func() {
			_, _ = out.Write(body[:1<<20]) // all of it is read when this returns, and more is wanted
			cancel()
		}()
		if _, err := fs.fromTar(ctx, in, discard{}, layertar.Options{Dir: "diff"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		_ = out.Close()
	})
	t.Run("cancelled in the middle", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		// A file that never ends, of zeros: no block is written, no read ever waits.
		r := io.MultiReader(bytes.NewReader(rawHeader('0', "f", 1<<43)), zeroReader{cancel})
		if _, err := fs.fromTar(ctx, r, discard{}, layertar.Options{Dir: "diff"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("device full", func(t *testing.T) {
		if _, err := fs.fromTar(t.Context(), bytes.NewReader(body), full{}, layertar.Options{Dir: "diff"}); !errors.Is(err, unix.ENOSPC) {
			t.Error(err)
		}
	})
	t.Run("stream fails", func(t *testing.T) {
		broken := errors.New("connection reset")
		r := io.MultiReader(bytes.NewReader(body[:1<<20]), errReader{broken})
		if _, err := fs.fromTar(t.Context(), r, discard{}, layertar.Options{Dir: "diff"}); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}

type full struct{}

func (full) WriteAt([]byte, int64) (int, error) { return 0, unix.ENOSPC }

// zeroReader reads zeros, and cancels when it is asked for some.
type zeroReader struct{ cancel func() }

func (z zeroReader) Read(p []byte) (int, error) {
	z.cancel()
	clear(p)
	return len(p), nil
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }
