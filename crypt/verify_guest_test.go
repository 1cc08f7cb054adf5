//go:build guest

package crypt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
)

const (
	needle  = "a-name-that-is-looked-for"
	bigName = "big"
)

// searched is a closed sealed image, with the blocks that tests change.
type searched struct {
	*testImage
	uuid    string
	tree    verity.Tree
	content []byte           // of the file bigName
	blocks  map[string]int64 // by what lies there
}

// searchedImage makes an image with a large directory and a large file, and looks for their blocks
// in what the dm-crypt device shows.
func searchedImage(t *testing.T, fs crypt.FileSystem) searched {
	t.Helper()
	s := searched{testImage: device(t, readOnly), content: make([]byte, 300*verity.BlockSize)}
	_, _ = rand.NewChaCha8([32]byte{3}).Read(s.content)
	files := map[string]string{bigName: string(s.content), "dir/" + needle: ""}
	for i := range 300 { // directories of several blocks, away from inodes
		files[fmt.Sprintf("dir/%060d", i)] = ""
	}
	s.making.FileSystem = fs
	result, err := s.load(t.Context(), bytes.NewReader(layerTar(t, files)))
	must(t, err)
	s.uuid, s.tree = result.UUID, treeOf(t, s.Path)
	must(t, s.get(t.Context()))
	raw, err := os.Open(dmNode(t, crypt.DeviceName(s.uuid)))
	must(t, err)
	all := make([]byte, s.tree.End())
	_, err = raw.ReadAt(all, 0)
	must(t, errors.Join(err, raw.Close()))
	blockOf := func(what string, content []byte) int64 {
		at := bytes.Index(all, content)
		if at < 0 {
			t.Fatalf("%s is not in the image", what)
		}
		return int64(at / verity.BlockSize)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(s.mnt, "diff", bigName), &st))
	s.blocks = map[string]int64{
		"superblock":      0,
		"data":            blockOf("data", s.content[100*verity.BlockSize:101*verity.BlockSize]),
		"inode":           inodeAt(fs, all, st.Ino) / verity.BlockSize,
		"directory":       blockOf("directory", []byte(needle)),
		"last data block": int64(s.tree.DataBlocks) - 1,
		"top of the tree": int64(s.tree.HashStart),
		"end of the tree": s.tree.End()/verity.BlockSize - 1,
	}
	must(t, s.put())
	gone(t, s.uuid, s.Path)
	return s
}

// inodeAt is where in a file system's bytes an inode lies.
func inodeAt(fs crypt.FileSystem, all []byte, ino uint64) int64 {
	le := binary.LittleEndian
	super := all[1024:]
	if fs == crypt.EROFS { // erofs_fs.h: meta_blkaddr, slots of 32 bytes
		return int64(le.Uint32(super[40:]))*verity.BlockSize + int64(ino)*32
	}
	perGroup, size := uint64(le.Uint32(super[40:])), uint64(le.Uint16(super[88:]))
	descriptor := uint64(32)
	if le.Uint32(super[96:])&0x80 != 0 { // 64bit
		descriptor = uint64(le.Uint16(super[254:]))
	}
	table := le.Uint32(all[verity.BlockSize+(ino-1)/perGroup*descriptor+8:])
	return int64(table)*verity.BlockSize + int64((ino-1)%perGroup*size)
}

// treeOf is the tree that an image's header names.
func treeOf(t *testing.T, path string) (tree verity.Tree) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	must(t, err)
	token, err := h.Token("layervault-content")
	must(t, err)
	var in struct{ Tree []byte }
	must(t, errors.Join(json.Unmarshal(token, &in), tree.UnmarshalBinary(in.Tree)))
	return tree
}

func verifyLevel(tree verity.Tree, block int64) int {
	level, end := len(levels(tree)), int64(tree.HashStart)
	if block < end {
		return 0
	}
	for _, n := range slices.Backward(levels(tree)) {
		if end += int64(n); block < end {
			return level
		}
		level--
	}
	return -1
}

// One bit is changed in each kind of block of each kind of image: Verify names it. Nothing is
// changed: it finds nothing. The image is open, or closed.
func TestVerify(t *testing.T) {
	for _, fs := range []crypt.FileSystem{crypt.Ext4, crypt.EROFS} {
		t.Run(string(fs), func(t *testing.T) {
			s := searchedImage(t, fs)
			verify := func(what string, want ...crypt.BadBlock) {
				t.Helper()
				var last int64
				got, err := s.Verify(t.Context(), func(done, total int64) {
					if done <= last || done > total || total != s.tree.End() {
						t.Errorf("%s: progress %d of %d after %d", what, done, total, last)
					}
					last = done
				})
				if wanted := (crypt.Verification{UUID: s.uuid, FileSystem: fs, Bytes: s.tree.End(), Compared: true}); got != wanted {
					t.Errorf("%s: %+v, want %+v", what, got, wanted)
				}
				var corrupt *crypt.CorruptError
				switch {
				case want == nil && (err != nil || last != s.tree.End()):
					t.Errorf("%s: %v, %d of %d bytes", what, err, last, s.tree.End())
				case want != nil && (!errors.As(err, &corrupt) || !slices.Equal(corrupt.Bad, want)):
					t.Errorf("%s: %v, want %v", what, err, want)
				}
			}
			verify("untouched")
			gone(t, s.uuid, s.Path)
			for what, block := range s.blocks {
				bad := crypt.BadBlock{Block: uint64(block), Level: verifyLevel(s.tree, block)}
				s.flipBlock(t, block)
				verify(what, bad)
				s.flipBlock(t, block)
			}
			gone(t, s.uuid, s.Path)

			must(t, s.get(t.Context()))
			verify("untouched and open")
			s.flipBlock(t, s.blocks["directory"])
			s.flipBlock(t, s.blocks["data"])
			both := []crypt.BadBlock{{Block: uint64(s.blocks["data"])}, {Block: uint64(s.blocks["directory"])}}
			slices.SortFunc(both, func(a, b crypt.BadBlock) int { return int(a.Block) - int(b.Block) })
			verify("changed and open", both...)
			s.flipBlock(t, s.blocks["directory"])
			s.flipBlock(t, s.blocks["data"])
			if b, err := os.ReadFile(filepath.Join(s.mnt, "diff", bigName)); err != nil || !bytes.Equal(b, s.content) {
				t.Errorf("the mount, after the verification: %d bytes, %v", len(b), err)
			}
			must(t, s.put())
			gone(t, s.uuid, s.Path)
			noneLeft(t)
		})
	}
}

// The kernel names an open image in which it has read a changed block, and an image that does not
// open because of one.
func TestCorrupted(t *testing.T) {
	s := searchedImage(t, crypt.Ext4)
	want := func(when string, want ...string) {
		t.Helper()
		if got, err := crypt.Corrupted(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", when, got, err, want)
		}
	}
	want("closed")
	s.flipBlock(t, s.blocks["data"])
	must(t, s.get(t.Context()))
	want("not read yet")
	if _, err := s.Verify(t.Context(), nil); !errors.Is(err, crypt.ErrCorrupt) {
		t.Error(err)
	}
	want("read past dm-verity")
	if _, err := os.ReadFile(filepath.Join(s.mnt, "diff", bigName)); !errors.Is(err, unix.EIO) {
		t.Errorf("reading: %v", err)
	}
	want("read", s.uuid)
	must(t, s.put())
	gone(t, s.uuid, s.Path)
	want("closed again")

	s.flipBlock(t, s.blocks["superblock"])
	if err := s.get(t.Context()); !errors.Is(err, crypt.ErrCorrupt) {
		t.Errorf("opened without a superblock: %v", err)
	}
	gone(t, s.uuid, s.Path)
}

// An image is mounted, unmounted and verified while it is verified.
func TestVerifyMeanwhile(t *testing.T) {
	s := searchedImage(t, crypt.Ext4)
	var once sync.Once
	if _, err := s.Verify(t.Context(), func(int64, int64) {
		once.Do(func() {
			must(t, s.get(t.Context()))
			b, err := os.ReadFile(filepath.Join(s.mnt, "diff", bigName))
			if err != nil || !bytes.Equal(b, s.content) {
				t.Errorf("read %d bytes, %v", len(b), err)
			}
			must(t, s.put())
			_, err = s.Verify(t.Context(), nil)
			must(t, err)
		})
	}); err != nil {
		t.Error(err)
	}
	gone(t, s.uuid, s.Path)
	noneLeft(t)
}

// It ends with its context and leaves nothing open.
func TestVerifyCancelled(t *testing.T) {
	s := searchedImage(t, crypt.Ext4)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Verify(ctx, func(int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	gone(t, s.uuid, s.Path)
	noneLeft(t)
}

// What another program may write to says nothing, and is not read.
func TestVerifyHeldByCryptsetup(t *testing.T) {
	s := searchedImage(t, crypt.Ext4)
	sh(t, "cryptsetup", "open", "--key-file", keyFile(t, s.testImage), s.Path, "stock-holder")
	_, err := s.Verify(t.Context(), nil)
	wantHolder(t, err, "stock-holder", s.Path)
	sh(t, "cryptsetup", "close", "stock-holder")
	_, err = s.Verify(t.Context(), nil)
	must(t, err)
}

// A header that is not the image's own is an error before anything is read.
func TestVerifyForgedHeader(t *testing.T) {
	s := searchedImage(t, crypt.Ext4)
	removeContent(t, s.Path)
	if _, err := s.Verify(t.Context(), func(int64, int64) { t.Error("read") }); !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Error(err)
	}
}

// Images without a tree: of smaller sectors, and of format 1. They are read to the end, and the
// result says that nothing was compared.
func TestVerifyWithoutTree(t *testing.T) {
	small := device(t, readOnly)
	small.making.Params.SectorSize = 512
	noise := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(noise)
	_, err := small.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"f": string(noise)})))
	must(t, err)
	for name, d := range map[string]*testImage{"sectors of 512 bytes": small, "format 1": oldImage(t)} {
		uuid, err := d.UUID()
		must(t, err)
		info, err := os.Stat(d.Path)
		must(t, err)
		var last int64
		for range 2 {
			got, err := d.Verify(t.Context(), func(done, _ int64) { last = done })
			must(t, err)
			if got.Compared || got.UUID != uuid || got.Bytes != info.Size()-luks2.DefaultDataOffset || last != got.Bytes {
				t.Errorf("%s: %+v, read %d of %d", name, got, last, info.Size())
			}
			d.flipBlock(t, 100) // control: nobody sees it
		}
		must(t, os.Truncate(d.Path, info.Size()-verity.BlockSize))
		if _, err := d.Verify(t.Context(), nil); !errors.Is(err, luks2.ErrDamaged) {
			t.Errorf("%s: cut off: %v", name, err)
		}
		gone(t, uuid, d.Path)
	}
}

// oldImage is a sealed image of format 1.
func oldImage(t *testing.T) *testImage {
	t.Helper()
	d := device(t, readOnly)
	f, err := os.Create(d.Path)
	must(t, err)
	const uuid = "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3b"
	_, key, err := luks2.Format(f, luks2.Params{UUID: uuid}, luks2.RandomKeyKDF(), mustPass(t, luks2.Format1, uuid))
	must(t, err)
	clear(key)
	must(t, f.Truncate(17<<20))
	must(t, f.Close())
	sh(t, "cryptsetup", "open", "--key-file", keyFile(t, d), d.Path, "maker")
	sh(t, "mkfs.ext4", "-q", "-F", dmNode(t, "maker"))
	sh(t, "cryptsetup", "close", "maker")
	return d
}
