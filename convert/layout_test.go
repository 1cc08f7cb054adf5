package convert_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"layervault/convert"
	"layervault/convert/evetest"
	"layervault/persist"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Messages of EVE's configuration.

func driveMsg(sha string, format uint64) []byte {
	return evetest.Message(4, evetest.Message(1, evetest.Message(1, evetest.Text(1, uuidOf("image"+sha))), evetest.Text(2, "image"), evetest.Text(3, sha), evetest.Number(4, format)), evetest.Number(10, 1<<30))
}

func refMsg(id string, generation uint64) []byte {
	return evetest.Message(16, evetest.Text(1, id), evetest.Number(2, generation))
}

func appMsg(id string, purge uint64, parts ...[]byte) []byte {
	return evetest.Message(4, evetest.Message(1, evetest.Text(1, id), evetest.Text(2, "1")), evetest.Text(2, "app"), slices.Concat(parts...), evetest.Message(10, evetest.Number(2, purge)))
}

func volumeMsg(id string, clear uint64) []byte {
	return evetest.Message(21, evetest.Text(1, id), evetest.Message(2, evetest.Number(1, 2), evetest.Text(2, uuidOf("tree"+id))), evetest.Number(4, 0), evetest.Number(5, 64<<20), evetest.Number(8, clear))
}

// response is a ConfigResponse.
func response(parts ...[]byte) []byte {
	return slices.Concat(evetest.Message(1, evetest.Message(1, evetest.Text(1, uuidOf("device")), evetest.Text(2, "7")), slices.Concat(parts...)), evetest.Text(2, "hash"))
}

// envelope is an AuthContainer around a payload.
func envelope(payload []byte) []byte {
	return slices.Concat(evetest.Message(1, evetest.Message(1, payload)), evetest.Number(2, 1), evetest.Message(3, []byte("cert")), evetest.Message(4, []byte("sig")))
}

func uuidOf(seed string) string {
	h := sha256.Sum256([]byte(seed))
	s := hex.EncodeToString(h[:16])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

func shaOf(seed string) string {
	h := sha256.Sum256([]byte(seed))
	return hex.EncodeToString(h[:])
}

// device is an old layout below a folder, with the new places beside it.
type device struct {
	t     testing.TB
	root  string // the old layout, and the vault tier for the journal
	areas string
	// want is where each source goes; "" for one that is left.
	want map[string]string
	// why is part of the reason for those that are left.
	why map[string]string
	rng *rand.Rand
}

func newDevice(t testing.TB) *device {
	t.Helper()
	d := &device{t: t, want: map[string]string{}, why: map[string]string{}, rng: rand.New(rand.NewPCG(1, 2))}
	dir := memoryDir(t)
	d.root, d.areas = filepath.Join(dir, "persist"), filepath.Join(dir, "areas")
	for _, a := range []string{"volumes", "clear-volumes", "verifier", "downloader", "case"} {
		must(t, os.MkdirAll(filepath.Join(d.areas, a), 0o700))
	}
	must(t, os.MkdirAll(filepath.Join(d.root, "vault"), 0o711))
	return d
}

// memoryDir is a folder in memory where there is one: the tests sync thousands of times.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "convert")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func (d *device) places() convert.Folders {
	f := convert.Folders{}
	for _, a := range []convert.Area{convert.Volumes, convert.ClearVolumes, convert.Verifier, convert.Downloader, convert.Case} {
		f[a] = filepath.Join(d.areas, string(a))
	}
	return f
}

func (d *device) config() convert.Config {
	return convert.Config{Layout: persist.Layout{Root: d.root}, Places: d.places(), Sockets: []string{}, Keep: -1, Log: quiet}
}

func (d *device) path(rel string) string { return filepath.Join(d.root, rel) }

// write makes a file, and its folders.
func (d *device) write(rel string, content []byte) {
	d.t.Helper()
	must(d.t, os.MkdirAll(filepath.Dir(d.path(rel)), 0o755))
	must(d.t, os.WriteFile(d.path(rel), content, 0o640))
}

// random makes content. A long one has the canary in its middle.
func (d *device) random(n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], d.rng.Uint64())
	}
	if n > 10*len(canary) {
		copy(b[n/2:], canary)
	}
	return b[:n]
}

// canary is in what must not stay on the disk in the clear.
const canary = "ohY5ohpheiQuoh2eiLoosh3e"

// goes makes a file that moves.
func (d *device) goes(rel, to string, content []byte) {
	d.t.Helper()
	d.write(rel, content)
	d.want[rel] = to
}

// stays makes a file that is left.
func (d *device) stays(rel, why string) {
	d.t.Helper()
	d.write(rel, []byte("stays "+rel))
	d.want[rel], d.why[rel] = "", why
}

// tree makes a folder with everything that a container can have.
func (d *device) tree(rel string, files int) {
	d.t.Helper()
	at := d.path(rel)
	for _, dir := range []string{"rootfs/etc", "rootfs/usr/bin", "rootfs/var/empty", "rootfs/a name\nwith everything\t"} {
		must(d.t, os.MkdirAll(filepath.Join(at, dir), 0o755))
	}
	in := func(name string) string { return filepath.Join(at, "rootfs", name) }
	for i := range files {
		must(d.t, os.WriteFile(in(fmt.Sprintf("usr/bin/tool%05d", i)), d.random(d.rng.IntN(9000)), 0o755))
	}
	must(d.t, os.WriteFile(in("etc/passwd"), []byte("root:x:0:0\n"), 0o644))
	must(d.t, os.WriteFile(in("etc/shadow"), []byte(canary+"\n"), 0o000))
	must(d.t, os.WriteFile(in("usr/bin/sudo"), []byte("#!"), 0o755))
	must(d.t, os.Chown(in("usr/bin/sudo"), 1000, 1001))
	must(d.t, os.Chmod(in("usr/bin/sudo"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	must(d.t, os.Chmod(in("var/empty"), 0o777|fs.ModeSticky))
	must(d.t, os.Link(in("etc/passwd"), in("etc/passwd-")))
	must(d.t, os.Link(in("etc/passwd"), in("usr/bin/zz-link")))
	must(d.t, os.Symlink("passwd", in("etc/inside")))
	must(d.t, os.Symlink("../../../../../../../../etc/shadow", in("etc/outside")))
	must(d.t, os.Symlink("/proc/self/environ", in("usr/lib")))
	must(d.t, os.Symlink("nowhere", in("dangling")))
	must(d.t, os.Lchown(in("dangling"), 7, 8))
	must(d.t, unix.Mkfifo(in("fifo"), 0o620))
	must(d.t, unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(d.t, unix.Mknod(in("whiteout"), unix.S_IFCHR, int(unix.Mkdev(0, 0))))
	must(d.t, unix.Mknod(in("socket"), unix.S_IFSOCK|0o700, 0))
	must(d.t, unix.Setxattr(in("etc/passwd"), "user.note", []byte("kept"), 0))
	must(d.t, unix.Setxattr(in("usr/bin/sudo"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(d.t, unix.Setxattr(in("var"), "trusted.overlay.opaque", []byte("y"), 0))
	must(d.t, unix.Setxattr(in("etc"), "user.empty", nil, 0))
	f, err := os.Create(in("sparse"))
	must(d.t, err)
	_, err = f.WriteAt([]byte("far"), 5<<30)
	must(d.t, err)
	must(d.t, f.Close())
	old := time.Date(2019, 5, 6, 7, 8, 9, 123456789, time.UTC)
	for _, name := range []string{"etc/passwd", "etc", "usr/bin"} {
		must(d.t, os.Chtimes(in(name), old, old))
	}
}

// full makes a layout with every case.
func full(t testing.TB, files int) *device {
	d := newDevice(t)
	d.everything(files)
	return d
}

// everything makes every case, with a configuration. files is how many a container has.
func (d *device) everything(files int) {
	t := d.t
	vm, purged, twice, few, ct := uuidOf("vm"), uuidOf("purged"), uuidOf("twice"), uuidOf("few"), uuidOf("container")
	a, b, c := shaOf("a"), shaOf("b"), shaOf("c")
	vol := func(n int) string { return uuidOf(fmt.Sprint("volume", n)) }
	to := func(n, generation int, format string) string {
		id := fmt.Sprintf("%s#%d", vol(n), generation)
		return "volumes/" + id + "/" + id + "." + format
	}
	d.write("checkpoint/lastconfig", envelope(response(
		appMsg(vm, 0, driveMsg(a, 3), driveMsg(b, 1), refMsg(vol(1), 0), refMsg(vol(2), 4)),
		appMsg(purged, 3, driveMsg(a, 3), driveMsg(b, 9), refMsg(vol(3), 1), refMsg(vol(4), 0)),
		appMsg(twice, 0, driveMsg(c, 1), driveMsg(c, 3), driveMsg(a, 3), driveMsg(a, 3), refMsg(vol(5), 0), refMsg(vol(6), 0), refMsg(vol(7), 0), refMsg(vol(8), 0)),
		appMsg(few, 0, driveMsg(a, 3), driveMsg(b, 3), refMsg(vol(9), 0)),
		appMsg(ct, 2, driveMsg(c, 8), driveMsg("", 8), driveMsg(b, 8), refMsg(vol(10), 0), refMsg(vol(11), 5), refMsg("not a uuid", 0)),
		volumeMsg(vol(1), 0), volumeMsg(vol(2), 1), volumeMsg(vol(10), 1), volumeMsg(vol(11), 0),
		evetest.Message(20, evetest.Text(1, uuidOf("tree"+vol(11))), evetest.Text(5, strings.ToUpper(shaOf("resolved")))),
	)))
	img := func(sha, app, rest string) string { return "img/" + sha + "-" + app + rest }
	// Images of VMs.
	d.goes(img(a, vm, ".qcow2"), to(1, 0, "qcow2"), d.random(300_000))
	d.goes(img(strings.ToUpper(b), strings.ToUpper(vm), ".raw"), strings.Replace(to(2, 4, "raw"), "volumes/", "clear-volumes/", 1), d.random(8<<20+5000))
	must(t, os.Truncate(d.path(img(strings.ToUpper(b), strings.ToUpper(vm), ".raw")), 3<<30))
	d.goes(img(a, purged, "#3.qcow2"), to(3, 1, "qcow2"), d.random(70_000))
	d.goes(img(b, purged, ".iso"), to(4, 0, "iso"), d.random(4096))
	d.goes(img(c, twice, ".qcow2"), to(6, 0, "qcow2"), d.random(65_536)) // the format tells the drives apart
	d.goes(img(c, twice, ".raw"), to(5, 0, "raw"), nil)
	d.goes(img(a, twice, ".qcow2"), to(7, 0, "qcow2"), d.random(1)) // nothing does
	d.goes(img(a, few, ".vmdk"), to(9, 0, "vmdk"), d.random(5000))
	d.stays(img(b, few, ".qcow2"), "has no volume reference")
	d.stays(img(a, purged, "#2.qcow2"), "purge counter")
	d.stays(img(a, purged, ".qcow2"), "purge counter")
	d.stays(img(b, vm, "#1.raw"), "purge counter")
	d.stays(img(a, vm, ".raw"), "destination is taken")
	d.stays(img(c, vm, ".raw"), "no drive with this content")
	d.stays(img(a, uuidOf("forgotten"), ".qcow2"), "not in the configuration")
	d.stays(img(a, vm, ".qcow2.tmp"), "not a name")
	d.stays(img(a, vm, ".container"), "not a name")
	d.stays(img(a[:63], vm, ".raw"), "not a name")
	d.stays("img/ext-imga.img", "reserved")
	d.stays("img/notes.txt", "not a name")
	must(t, os.Symlink("/etc/passwd", d.path(img(b, vm, ".vhd"))))
	d.want[img(b, vm, ".vhd")], d.why[img(b, vm, ".vhd")] = "", "symbolic link"
	must(t, os.Mkdir(d.path(img(b, vm, ".ova")), 0o755))
	d.want[img(b, vm, ".ova")], d.why[img(b, vm, ".ova")] = "", "a folder"
	// Containers.
	prepared := func(sha, rest string) string { return "runx/pods/prepared/" + sha + "-" + ct + rest }
	d.tree(prepared(c, "#2"), files)
	d.want[prepared(c, "#2")] = to(10, 0, "container")
	d.tree(prepared(shaOf("resolved"), ""), 3) // its digest is in the content tree only
	d.write(prepared(shaOf("resolved"), "")+"/snapshotid.txt", []byte("kept"))
	d.want[prepared(shaOf("resolved"), "")] = to(11, 5, "container")
	d.tree(prepared(b, ""), 1)
	d.want[prepared(b, "")], d.why[prepared(b, "")] = "", "no valid UUID"
	d.stays(prepared(c, "#1"), "a file")
	d.downloads()
	// containerd.
	d.tree("containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs", files/4)
	d.write("containerd/io.containerd.content.v1.content/blobs/sha256/"+shaOf("blob"), []byte("blob"))
	d.write("containerd/io.containerd.metadata.v1.bolt/meta.db", d.random(32768))
	d.want["containerd"] = "case/containerd"
	// What is no business of the converter's.
	d.write("certs/device.cert", []byte("certificate"))
	d.write("vault/ext-imga.img", []byte("EVE's"))
}

func (d *device) downloads() {
	blob := d.random(200_000)
	sum := sha256.Sum256(blob)
	sha := hex.EncodeToString(sum[:])
	d.goes("downloads/appImg.obj/verified/"+strings.ToUpper(sha)+"/image.qcow2", "verifier/verified/"+sha, blob)
	d.stays("downloads/baseOs.obj/verified/"+strings.ToUpper(sha)+"/twin", "destination is taken")
	d.stays("downloads/appImg.obj/verified/"+shaOf("liar")+"/image", "digest of its name")
	for _, n := range []string{"one", "two"} {
		d.write("downloads/appImg.obj/verified/"+shaOf("two")+"/"+n, nil)
	}
	d.want["downloads/appImg.obj/verified/"+shaOf("two")], d.why["downloads/appImg.obj/verified/"+shaOf("two")] = "", "2 files"
	must(d.t, os.MkdirAll(d.path("downloads/appImg.obj/verified/"+shaOf("none")), 0o755))
	d.want["downloads/appImg.obj/verified/"+shaOf("none")], d.why["downloads/appImg.obj/verified/"+shaOf("none")] = "", "0 files"
	d.stays("downloads/appImg.obj/verified/README", "not a name")
	outside := "downloads/appImg.obj/verified/" + shaOf("outside")
	must(d.t, os.Symlink("/etc", d.path(outside)))
	d.want[outside], d.why[outside] = "", "symbolic link"
	d.goes("downloads/appImg.obj/pending/"+uuidOf("p")+"."+shaOf("p"), "downloader/pending/"+uuidOf("p")+"."+shaOf("p"), d.random(10))
	d.write("downloads/baseOs.obj/pending/folder/part", d.random(100))
	d.want["downloads/baseOs.obj/pending/folder"] = "downloader/pending/folder"
	d.goes("downloads/cert.obj/verifier/"+shaOf("v"), "verifier/pending/"+shaOf("v"), d.random(10))
	d.stays("downloads/file", "a file")
	must(d.t, os.Symlink("/etc", d.path("downloads/link.obj")))
	d.want["downloads/link.obj"], d.why["downloads/link.obj"] = "", "symbolic link"
}

// snapshot describes every name below a path, in full.
func snapshot(t testing.TB, top string) map[string]string {
	t.Helper()
	all := map[string]string{}
	first := map[uint64]string{}
	must(t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		line := fmt.Sprintf("%o %d:%d %d %d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Nano())
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			line += fmt.Sprintf(" size %d content %s", st.Size, contentOf(t, path, st.Size))
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = rel
				}
				line += " links " + first[st.Ino] + fmt.Sprint(st.Nlink)
			}
			if st.Size > 1<<30 && st.Blocks*512 > st.Size/2 {
				line += " not sparse"
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			must(t, err)
			line += " to " + to
		}
		all[rel] = line + xattrsOf(t, path)
		return nil
	}))
	return all
}

// contentOf hashes a file without its holes, which are as long as they are.
func contentOf(t testing.TB, path string, size int64) string {
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	for pos := int64(0); pos < size; {
		from, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
		if err != nil {
			break
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		must(t, err)
		buf := make([]byte, to-from)
		_, err = f.ReadAt(buf, from)
		must(t, err)
		for len(buf) > 0 { // blocks of zeros count as holes
			n := min(4096, len(buf))
			if !bytes.Equal(buf[:n], make([]byte, n)) {
				fmt.Fprintf(h, "%d\n", from)
				h.Write(buf[:n])
			}
			from, buf = from+int64(n), buf[n:]
		}
		pos = to
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func xattrsOf(t testing.TB, path string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		if name != "" {
			n, err := unix.Lgetxattr(path, name, buf)
			must(t, err)
			fmt.Fprintf(&b, " %s=%q", name, buf[:n])
		}
	}
	return b.String()
}
