//go:build guest

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sealedBlock = 4096
	sealedPages = 200
	// sealedTime is a time that no other bytes of an image are taken for.
	sealedTime = 0x5a17c3e1
	// luksData is where the blocks of an image begin.
	luksData = 1 << 20
)

func sealedEntry(i int) string { return fmt.Sprintf("entry-%03d-%s", i, strings.Repeat("n", 190)) }

// sealedImage is a sealed layer's image, as an attacker finds it, and what the test must know to
// hit a certain block of it.
type sealedImage struct {
	*maid
	id, path, fs string
	key          string // a file with the image's passphrase
	noise        []byte // content of the layer's file
}

// sealTree makes a layer with a file of noise and a directory of many names. For ext4 the kernel's
// EROFS is hidden from the plugin meanwhile.
func (m *maid) sealTree(id, fs string, seed byte) *sealedImage {
	m.Helper()
	im := &sealedImage{maid: m, id: id, fs: fs, path: filepath.Join(m.persist, "vault/layers", id, "image.luks"), noise: make([]byte, sealedPages*sealedBlock)}
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(im.noise)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(m.T, w.WriteHeader(&tar.Header{Name: "file", Size: int64(len(im.noise)), Mode: 0o644, ModTime: time.Unix(sealedTime, 0)}))
	_, err := w.Write(im.noise)
	must(m.T, err)
	for i := range 200 {
		must(m.T, w.WriteHeader(&tar.Header{Name: "dir/" + sealedEntry(i), Mode: 0o644}))
	}
	must(m.T, w.Close())
	if fs == "ext4" {
		sh(m.T, `mount -t tmpfs none /sys/fs/erofs`)
		defer sh(m.T, `umount /sys/fs/erofs`)
	}
	p := m.serve("")
	p.init()
	p.does("Create", map[string]any{"ID": id})
	if a := p.apply(id, "", &b); a.Err != "" {
		m.Fatalf("ApplyDiff: %s", a.Err)
	}
	p.stop()
	im.key = filepath.Join(m.TempDir(), "key")
	sh(m.T, `out=$1 id=$2; shift 2; env "$@" layervault image key "$id" >"$out"`, append([]string{im.key, id}, m.env...)...)
	return im
}

// stock opens the image with cryptsetup, which knows of no hash tree, for the length of f.
func (im *sealedImage) stock(f func(node string)) {
	im.Helper()
	node := sh(im.T, `cryptsetup open --readonly --key-file "$2" "$1" evil-stock; echo /dev/$(dmsetup info -c --noheadings -o blkdevname evil-stock)`, im.path, im.key)
	defer sh(im.T, `cryptsetup close evil-stock`)
	f(node)
}

// stockMounted is stock, with the file system mounted.
func (im *sealedImage) stockMounted(f func(dir string)) {
	im.Helper()
	im.stock(func(node string) {
		dir, err := os.MkdirTemp("/run", "evil-stock-")
		must(im.T, err)
		defer func() { must(im.T, os.Remove(dir)) }()
		must(im.T, unix.Mount(node, dir, im.fs, unix.MS_RDONLY, ""))
		defer func() { must(im.T, unix.Unmount(dir, 0)) }()
		f(filepath.Join(dir, "diff"))
	})
}

// find is where want lies in the decrypted image: the first place, in bytes, that good takes.
func (im *sealedImage) find(want []byte, good func(at int) bool) int {
	im.Helper()
	found := -1
	im.stock(func(node string) {
		data, err := os.ReadFile(node)
		must(im.T, err)
		for at := 0; ; at++ {
			n := bytes.Index(data[at:], want)
			if n < 0 {
				return
			}
			if at += n; good(at) {
				found = at
				return
			}
		}
	})
	if found < 0 {
		im.Fatalf("%q is not in the image", want)
	}
	return found
}

// flip changes one bit of the image; at counts from where its blocks begin.
func (im *sealedImage) flip(at int) {
	im.Helper()
	f, err := os.OpenFile(im.path, os.O_RDWR, 0)
	must(im.T, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], luksData+int64(at))
	must(im.T, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], luksData+int64(at))
	must(im.T, errors.Join(err, f.Sync(), f.Close()))
}

// tree is the encoded hash tree in the image's token; docs/formats.md has the format.
func (im *sealedImage) tree() []byte {
	im.Helper()
	f, err := os.Open(im.path)
	must(im.T, err)
	defer f.Close()
	doc := map[string]any{}
	must(im.T, json.NewDecoder(io.NewSectionReader(f, luksJSON, luksHeader-luksJSON)).Decode(&doc))
	token := at(doc, "tokens", tokenOf(doc, "layervault-content"))
	if token["filesystem"] != im.fs {
		im.Fatalf("the layer has the file system %v, want %s", token["filesystem"], im.fs)
	}
	tree, err := base64.StdEncoding.DecodeString(token["tree"].(string))
	must(im.T, err)
	return tree
}

// seen is what of a tree is not as it was made: changed, or not readable.
type seen struct {
	changed, failed []string
}

func (s *seen) note(what string, differs bool, err error) {
	switch {
	case errors.Is(err, unix.EIO):
		s.failed = append(s.failed, what)
	case err != nil || differs:
		s.changed = append(s.changed, fmt.Sprintf("%s (%v)", what, err))
	}
}

// look reads all of a tree.
func (im *sealedImage) look(dir string) (s seen) {
	info, err := os.Lstat(filepath.Join(dir, "file"))
	s.note("inode", err == nil && info.ModTime().Unix() != sealedTime, err)
	entries, err := os.ReadDir(filepath.Join(dir, "dir"))
	left := 200
	strange := slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		left--
		var n int
		_, scanErr := fmt.Sscanf(e.Name(), "entry-%03d-", &n)
		return scanErr != nil || e.Name() != sealedEntry(n)
	})
	s.note("directory", strange || err == nil && left != 0, err)
	f, err := os.Open(filepath.Join(dir, "file"))
	if err != nil {
		s.note("file", false, err)
		return s
	}
	defer f.Close()
	page := make([]byte, sealedBlock)
	for n := range sealedPages {
		_, err := f.ReadAt(page, int64(n)*sealedBlock)
		s.note(fmt.Sprintf("page %d", n), !bytes.Equal(page, im.noise[n*sealedBlock:][:sealedBlock]), err)
	}
	return s
}

// verified opens the layer as dockerd does and looks at it. It fails the test where something
// changed is shown, or where the layer does not open and the error does not name it.
func (im *sealedImage) verified() (s seen, refused string) {
	im.Helper()
	p := im.serve("")
	p.init()
	defer p.stop()
	a := p.call("Get", map[string]any{"ID": im.id})
	if a.Err != "" {
		contains(im.T, "the answer to Get", a.Err, "layer "+im.id)
		return s, a.Err
	}
	s = im.look(a.Dir)
	if len(s.changed) > 0 {
		im.Errorf("changed content is shown: %v", s.changed)
	}
	p.does("Put", map[string]any{"ID": im.id})
	return s, ""
}

// intact wants the layer to be as it was made.
func (im *sealedImage) intact() {
	im.Helper()
	if s, refused := im.verified(); refused != "" || len(s.failed) > 0 {
		im.Errorf("the layer as it was made: %v, %s", s.failed, refused)
	}
}

// One bit is changed in a block of each kind, of a sealed layer of each kind. It is an I/O error,
// or the layer does not open and the error names it. The control reads the same image without its
// hash tree, and sees something else than was written.
func TestEvilMaidSealed(t *testing.T) {
	for _, fs := range []string{"erofs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			m := newMaid(t, "key=versatile", "size=64M")
			im := m.sealTree("base", fs, 1)
			tree := im.tree()
			blocks, start := int(binary.BigEndian.Uint64(tree[8:])), int(binary.BigEndian.Uint64(tree[16:]))
			if blocks <= sealedPages || start < blocks {
				t.Fatalf("tree of %d blocks from %d", blocks, start)
			}
			im.intact()
			aligned := func(at int) bool { return at%16 == 0 }
			page := im.find(im.noise[100*sealedBlock:][:64], aligned)
			stamp := binary.LittleEndian.AppendUint32(nil, sealedTime)
			for _, c := range []struct {
				kind    string
				at      []int    // the first is tried first; a garbled name may be one that no kernel shows
				fails   []string // with the tree; none: the layer does not open
				control string   // what is changed without
			}{
				{"data", []int{page + 1000}, []string{"page 100"}, "page 100"},
				{"inode", []int{im.find(stamp, aligned)}, []string{"inode"}, "inode"},
				{"directory", im.names(), []string{"directory"}, "directory"},
				{"leaf of the tree", []int{(start+1)*sealedBlock + page/sealedBlock*32}, nil, ""},
				{"top of the tree", []int{start*sealedBlock + 8}, nil, ""},
			} {
				t.Run(c.kind, func(t *testing.T) {
					outer := m.T
					m.T = t
					defer func() { m.T = outer }()
					hit := im.control(c.control, c.at)
					defer im.flip(hit)
					s, refused := im.verified()
					for _, want := range c.fails {
						if refused == "" && !slices.Contains(s.failed, want) {
							t.Errorf("no I/O error of %s, only of %v", want, s.failed)
						}
					}
					if refused == "" && len(s.failed) == 0 {
						t.Error("nothing was noticed")
					}
					t.Logf("%d I/O errors; refused: %q", len(s.failed), refused)
				})
			}
			im.intact()
		})
	}
}

// names are places within names of the directory, in units of the cipher.
func (im *sealedImage) names() (at []int) {
	for _, i := range []int{20, 70, 120, 170} {
		begin := im.find([]byte(sealedEntry(i)), func(int) bool { return true })
		at = append(at, (begin+64)&^15)
	}
	return at
}

// control changes a bit, and wants what is read without the tree to have changed: want alone, or
// nothing. It returns the place, whose bit stays changed.
func (im *sealedImage) control(want string, at []int) int {
	im.Helper()
	var s seen
	for _, at := range at {
		im.flip(at)
		im.stockMounted(func(dir string) { s = im.look(dir) })
		changed := strings.Join(s.changed, " ")
		if len(s.failed) == 0 && (want == "" && changed == "" || want != "" && strings.HasPrefix(changed, want) && len(s.changed) == 1) {
			return at
		}
		im.flip(at)
	}
	im.Fatalf("the control: %v changed, %v not readable, want %q to be changed", s.changed, s.failed, want)
	return 0
}

// The token that holds the root hash: changed by a bit, taken away, another image's; the tree of
// another image; an older image of the same layer. As the control stock cryptsetup, which knows of
// no token, opens each and mounts it.
func TestEvilMaidSealedTokens(t *testing.T) {
	for _, fs := range []string{"erofs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			m := newMaid(t, "key=versatile", "size=64M")
			im := m.sealTree("base", fs, 1)
			older := filepath.Join(t.TempDir(), "older")
			sh(t, `cp --sparse=always "$1" "$2"; cp "$(dirname "$1")/layer.json" "$2.json"`, im.path, older)
			p := m.serve("")
			p.init()
			p.does("Remove", map[string]any{"ID": "base"})
			p.stop()
			im = m.sealTree("base", fs, 2)
			other := m.sealTree("other", fs, 3)
			m.keep()
			content := func(change func(token, others map[string]any, remove func())) func() {
				return func() {
					var others map[string]any
					forgeHeader(m.T, other.path, bothCopies, func(_ []byte, doc map[string]any) { others = at(doc, "tokens", tokenOf(doc, "layervault-content")) })
					forgeHeader(m.T, im.path, bothCopies, func(_ []byte, doc map[string]any) {
						id := tokenOf(doc, "layervault-content")
						change(at(doc, "tokens", id), others, func() { delete(at(doc, "tokens"), id) })
					})
				}
			}
			swapTrees := func() {
				tree := im.tree()
				start := int64(binary.BigEndian.Uint64(tree[16:]))
				if !bytes.Equal(tree[:24], other.tree()[:24]) {
					m.Fatal("the trees of the two layers lie at other places")
				}
				sh(m.T, `dd if="$1" of="$2" bs=4096 skip="$3" seek="$3" conv=notrunc status=none`, other.path, im.path, fmt.Sprint(luksData/sealedBlock+start))
			}
			for _, c := range []struct {
				name   string
				words  []string
				attack func()
			}{
				{"one bit of the token", []string{"tokens."}, content(func(token, _ map[string]any, _ func()) {
					tree, err := base64.StdEncoding.DecodeString(token["tree"].(string))
					must(m.T, err)
					tree[len(tree)-1] ^= 1
					token["tree"] = base64.StdEncoding.EncodeToString(tree)
				})},
				{"another file system", []string{"tokens."}, content(func(token, _ map[string]any, _ func()) {
					token["filesystem"] = map[string]string{"erofs": "ext4", "ext4": "erofs"}[fs]
				})},
				{"no tree in the token", []string{"tokens."}, content(func(token, _ map[string]any, _ func()) { delete(token, "tree") })},
				{"token taken away", []string{"tokens."}, content(func(_, _ map[string]any, remove func()) { remove() })},
				{"token of another image", []string{"tokens."}, content(func(token, others map[string]any, _ func()) { token["tree"] = others["tree"] })},
				{"tree of another image", nil, swapTrees},
				{"token and tree of another image", []string{"tokens."}, func() {
					swapTrees()
					content(func(token, others map[string]any, _ func()) { token["tree"] = others["tree"] })()
				}},
				{"older image of the same layer", []string{"image does not match the layer record"}, func() {
					sh(m.T, `cp --sparse=always "$1" "$2"`, older, im.path)
				}},
			} {
				t.Run(c.name, func(t *testing.T) {
					outer := m.T
					m.T = t
					defer func() { m.T = outer }()
					m.restore()
					c.attack()
					if c.name != "older image of the same layer" { // which has another passphrase
						im.stockMounted(func(dir string) {
							if s := im.look(dir); len(s.changed)+len(s.failed) > 0 {
								t.Errorf("the control: %v, %v", s.changed, s.failed)
							}
						})
					}
					_, refused := im.verified()
					if refused == "" {
						t.Error("the layer opens")
					}
					contains(t, "the answer to Get", refused, c.words...)
					m.restore()
					im.intact()
				})
			}
			// What is not noticed: the older image, with the record of its time, where nothing names
			// the present one. A child does.
			back := func() {
				sh(m.T, `cp --sparse=always "$1" "$2"; cp "$1.json" "$(dirname "$2")/layer.json"`, older, im.path)
			}
			m.restore()
			back()
			past := *im
			past.noise = make([]byte, len(im.noise))
			_, _ = rand.NewChaCha8([32]byte{1}).Read(past.noise)
			past.intact()
			m.restore()
			p = m.serve("")
			p.init()
			p.container("child", "base", "")
			p.stop()
			back()
			p = m.serve("")
			p.init()
			a := p.call("Get", map[string]any{"ID": "child"})
			p.stop()
			contains(t, "the answer to Get", a.Err, "base", "child")
		})
	}
}
