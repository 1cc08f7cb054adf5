package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/layer/layertest"
)

// imageConfig is a store with real images.
func imageConfig(t testing.TB, dir string) layer.Config {
	cfg := config(t)
	if dir != "" {
		cfg.Root, cfg.Scratch = filepath.Join(dir, "layers"), filepath.Join(dir, "scratch")
	}
	cfg.Devices = layertest.Devices
	return cfg
}

// oldTar is the tar of a layer with every kind of file that a tar has.
func oldTar(t testing.TB) []byte {
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	at := time.Date(2021, 3, 4, 5, 6, 7, 123456789, time.UTC)
	add := func(h tar.Header, content string) {
		h.Format, h.ModTime, h.Size = tar.FormatPAX, at, int64(len(content))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must(t, err)
		at = at.Add(time.Hour + time.Nanosecond)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o1777, Uid: 7, Gid: 8}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "dir/.wh..wh..opq"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "dir/file", Mode: 0o4755, Uid: 1 << 30, Gid: 70000, PAXRecords: map[string]string{
		"SCHILY.xattr.user.colour": "green", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}}, "content")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "dir/file", Mode: 0o4755, Uid: 1 << 30, Gid: 70000}, "")
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: "dir/file"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: ".wh.gone"}, "")
	add(tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666}, "")
	add(tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 259, Devminor: 70000}, "")
	add(tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "empty"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "large"}, strings.Repeat("0123456789abcdef", 40000))
	add(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 255)}, "long")
	must(t, w.Close())
	return body.Bytes()
}

// addOld makes a sealed layer of the older form.
func addOld(t testing.TB, s *layer.Store, id, parent string) {
	must(t, s.Create(t.Context(), id, parent, layer.CreateOptions{}))
	_, err := s.Import(t.Context(), id, bytes.NewReader(oldTar(t)), user.IdentityMapping{})
	must(t, err)
}

// shown describes everything below a layer's content, each file in one line.
func shown(t testing.TB, s *layer.Store, id string) (lines []string) {
	r, err := s.Get(id)
	must(t, err)
	v, err := s.Open(t.Context(), []layer.Record{r})
	must(t, err)
	defer func() { must(t, errors.Join(v.Close(context.Background()), s.Cool())) }()
	return tree(t, v.Content(0))
}

func tree(t testing.TB, root string) (lines []string) {
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(name, &st))
		rel := strings.TrimPrefix(name, root)
		line := fmt.Sprintf("%q mode %o owner %d:%d device %x time %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if same, ok := first[st.Ino]; ok {
				line += " is " + same
			}
			first[st.Ino] = rel
			line += fmt.Sprintf(" size %d", st.Size)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			must(t, err)
			line += fmt.Sprintf(" content %x", sha256.Sum256(data))
		case unix.S_IFLNK:
			target, err := os.Readlink(name)
			must(t, err)
			line += " to " + target
		}
		list := make([]byte, 64<<10)
		n, err := unix.Llistxattr(name, list)
		must(t, err)
		attrs := strings.Split(string(list[:n]), "\x00")
		slices.Sort(attrs)
		for _, attr := range attrs {
			if attr != "" {
				value := make([]byte, 64<<10)
				n, err := unix.Lgetxattr(name, attr, value)
				must(t, err)
				line += fmt.Sprintf(" %s=%q", attr, value[:n])
			}
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// fileSystem is the magic number of the file system that a layer's image has.
func fileSystem(t testing.TB, s *layer.Store, id string) int64 {
	r, err := s.Get(id)
	must(t, err)
	v, err := s.Open(t.Context(), []layer.Record{r})
	must(t, err)
	defer func() { must(t, errors.Join(v.Close(context.Background()), s.Cool())) }()
	var st unix.Statfs_t
	must(t, unix.Statfs(v.Content(0), &st))
	return st.Type
}

func wantClean(t *testing.T, root string) {
	t.Helper()
	for _, name := range names(t, root) {
		if strings.HasPrefix(name, ".tmp-") {
			t.Errorf("%s is left", name)
		}
	}
}

// TestReseal seals an older layer anew below a container's: its tree, size and place stay.
func TestReseal(t *testing.T) {
	ctx := t.Context()
	cfg := imageConfig(t, "")
	s := open(t, cfg)
	addOld(t, s, "base", "")
	must(t, s.Create(ctx, "top", "base", layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20}))
	before, was := shown(t, s, "base"), record(t, s, "base")
	if len(before) != 12 {
		t.Fatalf("the test's tree has %d files", len(before))
	}
	done, err := s.Reseal(ctx, "base")
	must(t, err)
	if !done.Done || done.Before == 0 || done.After == 0 || done.After >= done.Before {
		t.Errorf("%+v", done)
	}
	for _, when := range []string{"at once", "after a restart"} {
		is := record(t, s, "base")
		if is.UUID == was.UUID {
			t.Error(when, "the image was not replaced")
		}
		want := was
		want.UUID, want.MAC = is.UUID, is.MAC
		if d := cmp.Diff(want, is); d != "" {
			t.Error(when, d)
		}
		if record(t, s, "top").ParentUUID != is.UUID {
			t.Error(when, "the child does not name the new image")
		}
		if d := cmp.Diff(before, shown(t, s, "base")); d != "" {
			t.Error(when, d)
		}
		if chain, err := s.Chain("top"); err != nil || len(chain) != 2 {
			t.Error(when, chain, err)
		}
		s = reopen(t, s, cfg)
	}
	if fileSystem(t, s, "base") != unix.EROFS_SUPER_MAGIC_V1 {
		t.Error("the image has the older form")
	}
	wantClean(t, cfg.Root)
	if done, err := s.Reseal(ctx, "base"); err != nil || done.Done {
		t.Errorf("a layer of the present form: %+v, %v", done, err)
	}
}

func record(t testing.TB, s *layer.Store, id string) layer.Record {
	t.Helper()
	r, err := s.Get(id)
	must(t, err)
	return r
}

// populate makes what a container, and overlayfs, may leave in an upper directory.
func populate(t *testing.T, dir string) {
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("opaque"), 0o700))
	must(t, unix.Setxattr(at("opaque"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Mknod(at("opaque/gone"), unix.S_IFCHR, 0))
	must(t, os.Link(at("opaque/gone"), at("gone")))
	must(t, os.WriteFile(at(".wh.file"), []byte("no whiteout"), 0o640))
	must(t, os.WriteFile(at("copied"), []byte("up"), 0o6755))
	must(t, os.Chown(at("copied"), 1000, 1<<31))
	must(t, os.Chmod(at("copied"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	must(t, unix.Setxattr(at("copied"), "trusted.overlay.origin", []byte("\x00\xfb\x1d\x00handle"), 0))
	must(t, unix.Setxattr(at("copied"), "user.empty", nil, 0))
	must(t, unix.Setxattr(at("copied"), "security.capability", []byte("\x00\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00"), 0))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, os.Link(at("socket"), at("opaque/socket")))
	must(t, unix.Mknod(at("pipe"), unix.S_IFIFO|0o600, 0))
	must(t, unix.Mknod(at("device"), unix.S_IFBLK|0o600, int(unix.Mkdev(4000, 1<<19))))
	must(t, os.WriteFile(at("sparse"), []byte("head"), 0o600))
	must(t, os.Truncate(at("sparse"), 64<<20))
	must(t, os.Symlink("\xff not\ntext", at("link\xfe")))
	old := []unix.Timespec{{Sec: 1, Nsec: 1}, {Sec: -3600, Nsec: 999999999}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("copied"), old, 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("link\xfe"), []unix.Timespec{{Sec: 5}, {Sec: 1 << 32, Nsec: 7}}, unix.AT_SYMLINK_NOFOLLOW))
	must(t, os.Chmod(dir, 0o751))
	must(t, unix.Setxattr(dir, "user.root", []byte("x"), 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{{Sec: 5}, {Sec: 12, Nsec: 34}}, 0))
}

// fillWritable gives a writable layer content.
func fillWritable(t *testing.T, s *layer.Store, id string) {
	v, err := s.Open(t.Context(), []layer.Record{record(t, s, id)})
	must(t, err)
	populate(t, v.Content(0))
	must(t, errors.Join(v.Close(context.Background()), s.Cool()))
}

// TestResealCommitted seals what a build wrote: an upper directory in a writable image.
func TestResealCommitted(t *testing.T) {
	ctx := t.Context()
	cfg := imageConfig(t, "")
	s := open(t, cfg)
	must(t, s.Create(ctx, "x", "", layer.CreateOptions{ReadWrite: true, DefaultSize: 128 << 20, Name: "a", State: layer.Active}))
	fillWritable(t, s, "x")
	if _, err := s.Reseal(ctx, "x"); !errors.Is(err, layer.ErrNotFinal) {
		t.Errorf("an active layer: %v", err)
	}
	must(t, s.Commit(ctx, "x", "b", ""))
	must(t, s.Create(ctx, "y", "x", layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20, Name: "c", State: layer.Active}))
	before := shown(t, s, "x")
	if text := strings.Join(before, "\n"); len(before) != 12 || !strings.Contains(text, "-3600.999999999") || !strings.Contains(text, `is /opaque/socket`) && !strings.Contains(text, `is /socket`) {
		t.Fatalf("the test's tree is another:\n%s", text)
	}
	done, err := s.Reseal(ctx, "x")
	must(t, err)
	if !done.Done {
		t.Error("nothing was done")
	}
	s = reopen(t, s, cfg)
	r := record(t, s, "x")
	if r.Kind != layer.Sealed || r.State != layer.Committed || r.Name != "b" || r.Version != 3 || r.Size < 64<<20 {
		t.Errorf("%+v", r)
	}
	if record(t, s, "y").ParentUUID != r.UUID {
		t.Error("the child does not name the new image")
	}
	if d := cmp.Diff(before, shown(t, s, "x")); d != "" {
		t.Error(d)
	}
	wantClean(t, cfg.Root)
}

// TestSealFinal seals a layer without a state while its caller vouches for it.
func TestSealFinal(t *testing.T) {
	ctx := t.Context()
	cfg := imageConfig(t, "")
	s := open(t, cfg)
	must(t, s.Create(ctx, "x", "", layer.CreateOptions{}))
	_, err := s.MakeWritable(ctx, "x", layer.CreateOptions{DefaultSize: 128 << 20})
	must(t, err)
	fillWritable(t, s, "x")
	must(t, s.Create(ctx, "y", "x", layer.CreateOptions{}))
	before := shown(t, s, "x")
	written := errors.New("written to")
	for _, c := range []struct {
		when  string
		final layer.Final
		want  error
	}{
		{"nobody vouches", nil, layer.ErrNotFinal},
		{"refused", func(context.Context) (func(), error) { return nil, written }, written},
		{"refused at the end", refuseSecond(written), written},
	} {
		if done, err := s.SealFinal(ctx, "x", c.final); !errors.Is(err, c.want) || done.Done {
			t.Errorf("%s: %+v, %v", c.when, done, err)
		}
		wantClean(t, cfg.Root)
	}
	held := 0
	_, err = s.SealFinal(ctx, "x", func(context.Context) (func(), error) { held++; return func() { held-- }, nil })
	must(t, err)
	if held != 0 {
		t.Errorf("held %d times", held)
	}
	if r := record(t, s, "x"); r.Kind != layer.Sealed || record(t, s, "y").ParentUUID != r.UUID {
		t.Errorf("%+v below %+v", r, record(t, s, "y"))
	}
	if d := cmp.Diff(before, shown(t, s, "x")); d != "" {
		t.Error(d)
	}
	must(t, s.Create(ctx, "rw", "", layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20}))
	if _, err := s.SealFinal(ctx, "rw", func(context.Context) (func(), error) { return func() {}, nil }); !errors.Is(err, layer.ErrNotFinal) {
		t.Errorf("a container's layer: %v", err)
	}
}

func refuseSecond(err error) layer.Final {
	asked := 0
	return func(context.Context) (func(), error) {
		if asked++; asked == 2 {
			return nil, err
		}
		return func() {}, nil
	}
}

// TestResealWhileOpen wants what has the old image to keep it, the next open to take the new one,
// and the old one to be erased after its last user.
func TestResealWhileOpen(t *testing.T) {
	ctx := t.Context()
	cfg := imageConfig(t, "")
	s := open(t, cfg)
	addOld(t, s, "base", "")
	was := record(t, s, "base")
	old, err := s.Open(ctx, []layer.Record{was})
	must(t, err)
	before := tree(t, old.Content(0))
	file, err := os.Open(filepath.Join(old.Content(0), "large"))
	must(t, err)
	_, err = s.Reseal(ctx, "base")
	must(t, err)
	if d := cmp.Diff(before, tree(t, old.Content(0))); d != "" {
		t.Error("the open image:", d)
	}
	// A chain that was read before, and is opened now.
	v, err := s.Open(ctx, []layer.Record{was})
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(v.Content(0), &st))
	if st.Type != unix.EROFS_SUPER_MAGIC_V1 || v.Layers[0].UUID == was.UUID {
		t.Errorf("the next open takes the old image: %x, %+v", st.Type, v.Layers[0])
	}
	must(t, v.Close(ctx))
	if left, err := s.EraseReplaced(ctx); err != nil || left != 1 {
		t.Errorf("while the old image is open: %d, %v", left, err)
	}
	must(t, errors.Join(file.Close(), old.Close(ctx), s.Cool()))
	if left, err := s.EraseReplaced(ctx); err != nil || left != 0 {
		t.Errorf("after its last user: %d, %v", left, err)
	}
	wantClean(t, cfg.Root)
}

// TestResealRemoved wants nothing to be left of a layer that is removed while it is sealed anew,
// nor of one whose old image is still open.
func TestResealRemoved(t *testing.T) {
	ctx := t.Context()
	cfg := imageConfig(t, "")
	var s *layer.Store
	remove := true
	cfg.Checkpoint = func(op, id, step string) error {
		if remove && op+"/"+step == "reseal/image made" {
			return s.Remove(ctx, id)
		}
		return nil
	}
	s = open(t, cfg)
	addOld(t, s, "a", "")
	if _, err := s.Reseal(ctx, "a"); !errors.Is(err, layer.ErrNotFound) {
		t.Errorf("removed meanwhile: %v", err)
	}
	wantClean(t, cfg.Root)
	remove = false
	addOld(t, s, "a", "")
	addOld(t, s, "a-b", "")
	for _, id := range []string{"a", "a-b"} {
		old, err := s.Open(ctx, []layer.Record{record(t, s, id)})
		must(t, err)
		defer func() { must(t, old.Close(context.Background())) }()
		_, err = s.Reseal(ctx, id)
		must(t, err)
	}
	must(t, s.Remove(ctx, "a"))
	if left, err := s.EraseReplaced(ctx); err != nil || left != 1 {
		t.Errorf("old images after the removal of one layer: %d, %v", left, err)
	}
	must(t, s.Remove(ctx, "a-b"))
	wantClean(t, cfg.Root)
}

// resealSteps are the steps at which a crash leaves another state.
var resealSteps = []string{
	"reseal/image made", "reseal/record written", "reseal/exchanged", "settle child/record written", "settle/record written", "reseal/old image erased",
}

// TestResealCrash freezes the disk at each step, and wants the store to open there, the layer and
// its child to be whole, and the next run to come to the same end without a stray file.
func TestResealCrash(t *testing.T) {
	ctx := t.Context()
	for _, step := range resealSteps {
		t.Run(strings.ReplaceAll(step, "/", " "), func(t *testing.T) {
			cfg, frozen := imageConfig(t, ""), imageConfig(t, "")
			reached, fail := 0, false
			broken := errors.New("disk on fire")
			cfg.Checkpoint = func(op, _, at string) error {
				if op+"/"+at != step {
					return nil
				}
				if fail {
					return broken
				}
				reached++
				return exec.CommandContext(ctx, "cp", "-a", "--sparse=always", cfg.Root, frozen.Root).Run()
			}
			s := open(t, cfg)
			addOld(t, s, "base", "")
			must(t, s.Create(ctx, "top", "base", layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20}))
			before := shown(t, s, "base")
			_, err := s.Reseal(ctx, "base")
			must(t, err)
			if reached != 1 {
				t.Fatalf("step %s was reached %d times", step, reached)
			}
			checkResealed(t, open(t, frozen), frozen, before)

			// The same step as an error.
			addOld(t, s, "other", "")
			must(t, s.Create(ctx, "over", "other", layer.CreateOptions{}))
			before = shown(t, s, "other")
			fail = true
			if _, err := s.Reseal(ctx, "other"); !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
			if d := cmp.Diff(before, shown(t, s, "other")); d != "" {
				t.Error(d)
			}
			fail = false
			_, err = s.Reseal(ctx, "other")
			must(t, err)
			_, err = s.EraseReplaced(ctx)
			must(t, err)
			if r := record(t, s, "other"); r.Replaces != "" || record(t, s, "over").ParentUUID != r.UUID {
				t.Errorf("%+v", r)
			}
			wantClean(t, cfg.Root)
		})
	}
}

// checkResealed wants a store with the layers base and top to be whole, however far the last run
// came, and to be brought to the end.
func checkResealed(t *testing.T, s *layer.Store, cfg layer.Config, before []string) {
	t.Helper()
	wantClean(t, cfg.Root)
	if chain, err := s.Chain("top"); err != nil || len(chain) != 2 {
		t.Fatal(chain, err)
	}
	if d := cmp.Diff(before, shown(t, s, "base")); d != "" {
		t.Error(d)
	}
	_, err := s.Reseal(t.Context(), "base")
	must(t, err)
	if d := cmp.Diff(before, shown(t, s, "base")); d != "" {
		t.Error(d)
	}
	r := record(t, s, "base")
	if r.Replaces != "" || record(t, s, "top").ParentUUID != r.UUID || fileSystem(t, s, "base") != unix.EROFS_SUPER_MAGIC_V1 {
		t.Errorf("not at its end: %+v, %+v", r, record(t, s, "top"))
	}
	wantClean(t, cfg.Root)
}

// An older record and image of the parent are refused once a layer is sealed anew.
func TestResealReplay(t *testing.T) {
	ctx := t.Context()
	cfg := imageConfig(t, "")
	s := open(t, cfg)
	addOld(t, s, "base", "")
	must(t, s.Create(ctx, "top", "base", layer.CreateOptions{}))
	kept := filepath.Join(t.TempDir(), "base")
	must(t, exec.CommandContext(ctx, "cp", "-a", "--sparse=always", filepath.Join(cfg.Root, "base"), kept).Run())
	_, err := s.Reseal(ctx, "base")
	must(t, err)
	must(t, os.RemoveAll(filepath.Join(cfg.Root, "base")))
	must(t, exec.CommandContext(ctx, "cp", "-a", "--sparse=always", kept, filepath.Join(cfg.Root, "base")).Run())
	s = reopen(t, s, cfg)
	if _, err := s.Chain("top"); !errors.Is(err, layer.ErrForged) {
		t.Errorf("the older image is accepted: %v", err)
	}
}
