//go:build guest

package crypt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/ext4"
	"layervault/crypt/loop"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
)

// verityImage is a sealed layer with a hash tree, as loop, dm-crypt, dm-verity and ext4 are stacked.
type verityImage struct {
	path   string
	header *luks2.Header
	key    []byte
	tree   verity.Tree
}

// up stacks the devices for the length of f: without a tree, loop and dm-crypt only.
func (im *verityImage) up(t *testing.T, tree *verity.Tree, readOnly bool, f func(node string)) {
	t.Helper()
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	file, err := os.OpenFile(im.path, mode, 0)
	must(t, err)
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	must(t, err)
	s := im.header.Segment()
	lo, err := loop.Attach(t.Context(), file, loop.Options{ReadOnly: readOnly, DirectIO: true, BlockSize: s.SectorSize})
	must(t, err)
	defer func() { _ = lo.Close() }()
	device := func(name string, load func(name string) error) dm.Info {
		_, err := control.Create(name, "")
		must(t, err)
		t.Cleanup(func() { _ = control.Remove(name, true) }) // where the test ends before
		must(t, load(name))
		must(t, control.Resume(name))
		info, err := control.Info(name)
		must(t, err)
		return info
	}
	top := device("layervault-test-crypt", func(name string) error {
		return control.LoadCrypt(name, dm.CryptTable{
			Cipher: s.Cipher, KeySize: len(im.key), Dev: lo.Dev, Offset: uint64(s.Offset / 512), Length: uint64((info.Size() - s.Offset) / 512),
			SectorSize: s.SectorSize, ReadOnly: readOnly,
		}, "layervault:test", im.key)
	})
	defer func() { must(t, control.Remove("layervault-test-crypt", false)) }()
	if tree != nil {
		below := top.Dev
		top = device("layervault-test-verity", func(name string) error {
			return control.LoadVerity(name, dm.VerityTable{
				DataDev: below, HashDev: below, DataBlocks: tree.DataBlocks, HashStart: tree.HashStart, Root: tree.Root, Salt: tree.Salt,
			})
		})
		defer func() { must(t, control.Remove("layervault-test-verity", false)) }()
	}
	f(top.Node())
}

// newVerityImage writes an image layer through a verity.Writer, past the page cache as an import does.
func newVerityImage(t *testing.T, layer []byte) *verityImage {
	t.Helper()
	im := &verityImage{path: filepath.Join(t.TempDir(), "image.luks")}
	file, err := os.Create(im.path)
	must(t, err)
	defer func() { _ = file.Close() }()
	im.header, im.key, err = luks2.Format(file, luks2.Params{}, luks2.RandomKeyKDF(), []byte("passphrase"))
	must(t, err)
	const limit = ext4.MaxTarSize
	scratch := limit + verity.Size(limit)
	offset := im.header.Segment().Offset
	must(t, file.Truncate(offset+scratch+verity.ScratchSize(limit)))
	im.up(t, nil, false, func(node string) {
		direct, err := os.OpenFile(node, os.O_RDWR|unix.O_DIRECT, 0)
		must(t, err)
		defer func() { _ = direct.Close() }()
		w, err := verity.NewWriter(direct, verity.Options{Limit: limit, Scratch: scratch})
		must(t, err)
		result, err := ext4.FromTar(t.Context(), bytes.NewReader(layer), w, ext4.TarOptions{Dir: "diff"})
		must(t, err)
		im.tree, err = w.Finish(t.Context(), result.Size)
		must(t, err)
		must(t, direct.Sync())
	})
	must(t, file.Truncate(offset+im.tree.End()))
	must(t, file.Sync())
	return im
}

// flip changes one bit of the ciphertext of a block.
func (im *verityImage) flip(t *testing.T, block uint64) {
	t.Helper()
	f, err := os.OpenFile(im.path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	at := im.header.Segment().Offset + int64(block)*verity.BlockSize + 1234
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b[:], at)
	must(t, errors.Join(err, f.Sync()))
}

// find is the number of the block that has this content.
func (im *verityImage) find(t *testing.T, content []byte) uint64 {
	t.Helper()
	found := uint64(0)
	im.up(t, nil, true, func(node string) {
		f, err := os.Open(node)
		must(t, err)
		defer func() { _ = f.Close() }()
		block := make([]byte, verity.BlockSize)
		for n := range im.tree.DataBlocks {
			if _, err := io.ReadFull(f, block); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(block, content) {
				found = n
				return
			}
		}
	})
	if found == 0 {
		t.Fatal("content not found in the image")
	}
	return found
}

// pages reads a file page by page: which of them failed, and which have other content.
func pages(t *testing.T, name string, want []byte) (failed, changed []int, err error) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, verity.BlockSize)
	for at := 0; at < len(want); at += len(b) {
		_, err := f.ReadAt(b, int64(at))
		switch {
		case errors.Is(err, unix.EIO):
			failed = append(failed, at/len(b))
		case err != nil:
			return nil, nil, err
		case !bytes.Equal(b, want[at:at+len(b)]):
			changed = append(changed, at/len(b))
		}
	}
	return failed, changed, nil
}

// TestVerityStack: a sealed layer over dm-crypt and dm-verity is read as it was written. One bit of its ciphertext is changed: an I/O error on
// that page, and the rest is readable. The control: without verity other content is read.
func TestVerityStack(t *testing.T) {
	big := make([]byte, 300*verity.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(big)
	layer := layerTar(t, map[string]string{"a/small": "text", "big": string(big)})
	mounted := func(node string, f func(at string)) error {
		at := t.TempDir()
		if err := unix.Mount(node, at, "ext4", unix.MS_RDONLY, ""); err != nil {
			return err
		}
		defer func() { must(t, unix.Unmount(at, 0)) }()
		f(at)
		return nil
	}
	im := newVerityImage(t, layer)
	check := func(tree *verity.Tree, wantFailed, wantChanged []int) {
		t.Helper()
		im.up(t, tree, true, func(node string) {
			must(t, mounted(node, func(at string) {
				if b, err := os.ReadFile(filepath.Join(at, "diff/a/small")); err != nil || string(b) != "text" {
					t.Errorf("%q, %v", b, err)
				}
				failed, changed, err := pages(t, filepath.Join(at, "diff/big"), big)
				if err != nil || fmt.Sprint(failed, changed) != fmt.Sprint(wantFailed, wantChanged) {
					t.Errorf("I/O errors on pages %v, want %v; changed pages %v, want %v; %v", failed, wantFailed, changed, wantChanged, err)
				}
			}))
		})
	}
	verify := func(want ...verity.BadBlock) {
		t.Helper()
		im.up(t, nil, true, func(node string) {
			f, err := os.OpenFile(node, os.O_RDONLY|unix.O_DIRECT, 0)
			must(t, err)
			defer func() { _ = f.Close() }()
			err = verity.Verify(t.Context(), f, im.tree, verity.Checking{MaxBad: 10})
			var corrupt *verity.CorruptError
			if errors.As(err, &corrupt) {
				if fmt.Sprint(corrupt.Bad) != fmt.Sprint(want) {
					t.Errorf("%v, want %v", err, want)
				}
			} else if err != nil || want != nil {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	t.Logf("%d blocks of data, %d of the tree", im.tree.DataBlocks, im.tree.HashBlocks())
	check(&im.tree, nil, nil)
	verify()

	block := im.find(t, big[200*verity.BlockSize:201*verity.BlockSize])
	im.flip(t, block)
	check(&im.tree, []int{200}, nil)
	check(nil, nil, []int{200})
	verify(verity.BadBlock{Block: block})
	im.flip(t, block)
	check(&im.tree, nil, nil)

	// The top of the tree: nothing can be read, so nothing is mounted.
	im.flip(t, im.tree.HashStart)
	im.up(t, &im.tree, true, func(node string) {
		if err := mounted(node, func(string) {}); err == nil {
			t.Error("mounted without the top of its tree")
		}
	})
	check(nil, nil, nil)
	verify(verity.BadBlock{Block: im.tree.HashStart, Level: len(levels(im.tree))})
}

// levels are the numbers of blocks of a tree's levels, from the lowest up.
func levels(tree verity.Tree) (out []uint64) {
	for n := tree.DataBlocks; n > 1; {
		n = (n + 127) / 128
		out = append(out, n)
	}
	return out
}
