//go:build guest

package dm_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/loop"
	"layervault/crypt/verity"
)

// verityFile is a file with blocks of data and their tree.
func verityFile(t *testing.T, blocks int) (path string, data []byte, tree verity.Tree) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "device")
	f, err := os.Create(path)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	data = make([]byte, blocks*verity.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	w, err := verity.NewWriter(f, verity.Options{Limit: int64(len(data))})
	must(t, err)
	_, err = w.WriteAt(data, 0)
	must(t, err)
	tree, err = w.Finish(t.Context(), int64(len(data)))
	must(t, err)
	return path, data, tree
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// over maps a file by way of a loop device for the length of f.
func over(t *testing.T, path, name string, load func(c *dm.Control, dev uint64) error, f func(c *dm.Control, node string)) {
	t.Helper()
	c := open(t)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer func() { _ = file.Close() }()
	lo, err := loop.Attach(t.Context(), file, loop.Options{BlockSize: verity.BlockSize})
	must(t, err)
	defer func() { _ = lo.Close() }()
	info, err := c.Create(name, "")
	must(t, err)
	defer func() { must(t, c.Remove(name, false)) }()
	must(t, load(c, lo.Dev))
	must(t, c.Resume(name))
	f(c, info.Node())
}

// read reads a device block by block, past the cache. It says which blocks were an I/O error,
// and which had other content.
func read(t *testing.T, node string, want []byte) (failed, changed []int) {
	t.Helper()
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_DIRECT, 0)
	must(t, err)
	defer func() { _ = f.Close() }()
	b, err := unix.Mmap(-1, 0, verity.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	must(t, err)
	defer func() { _ = unix.Munmap(b) }()
	for at := 0; at < len(want); at += verity.BlockSize {
		_, err := f.ReadAt(b, int64(at))
		switch {
		case errors.Is(err, unix.EIO):
			failed = append(failed, at/verity.BlockSize)
		case err != nil:
			t.Fatal(err)
		case !bytes.Equal(b, want[at:at+verity.BlockSize]):
			changed = append(changed, at/verity.BlockSize)
		}
	}
	return failed, changed
}

func numbers(from, end int) (out []int) {
	for i := from; i < end; i++ {
		out = append(out, i)
	}
	return out
}

// TestVerity: one bit is changed below: the kernel gives an I/O error for the very blocks that
// it vouches for no more, and the others. The control: without verity the changed byte is read.
func TestVerity(t *testing.T) {
	if !open(t).HasVerity() {
		t.Fatal("this kernel has no verity")
	}
	const blocks = 300 // three blocks of hashes, and one above them
	const start = blocks * verity.BlockSize
	for _, tt := range []struct {
		name   string
		at     int64 // of the bit; -1 for none
		failed []int
	}{
		{"intact", -1, nil},
		{"first data block", 5, numbers(0, 1)},
		{"data block", 177*verity.BlockSize + 4095, numbers(177, 178)},
		{"last data block", start - 1, numbers(299, 300)},
		{"top", start + 40, numbers(0, 300)},
		{"hashes", start + 2*verity.BlockSize + 100, numbers(128, 256)},
		{"padding", start + 4*verity.BlockSize - 1, numbers(256, 300)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, data, tree := verityFile(t, blocks)
			if tt.at >= 0 {
				flip(t, path, tt.at)
			}
			const name = "layervault-test-verity"
			load := func(c *dm.Control, dev uint64) error { return c.LoadVerity(name, verityTable(dev, tree)) }
			over(t, path, name, load, func(c *dm.Control, node string) {
				failed, changed := read(t, node, data)
				if fmt.Sprint(failed) != fmt.Sprint(tt.failed) || changed != nil {
					t.Errorf("I/O errors on blocks %v, want %v; changed content in %v", failed, tt.failed, changed)
				}
				status, err := c.Status(name)
				must(t, err)
				if dm.VerityCorrupted(status[0]) != (tt.failed != nil) {
					t.Errorf("status %+v", status)
				}
				if info, err := c.Info(name); err != nil || !info.ReadOnly {
					t.Errorf("%+v, %v", info, err)
				}
			})
			linear := func(c *dm.Control, dev uint64) error {
				params := fmt.Sprintf("%d:%d 0", unix.Major(dev), unix.Minor(dev))
				return c.Load(name, true, dm.Target{Length: blocks * 8, Type: "linear", Params: params})
			}
			over(t, path, name, linear, func(_ *dm.Control, node string) {
				failed, changed := read(t, node, data)
				if inData := tt.at >= 0 && tt.at < start; failed != nil || (len(changed) == 1) != inData {
					t.Errorf("control: I/O errors on blocks %v, changed content in %v", failed, changed)
				}
			})
		})
	}
}

func verityTable(dev uint64, tree verity.Tree) dm.VerityTable {
	return dm.VerityTable{DataDev: dev, HashDev: dev, DataBlocks: tree.DataBlocks, HashStart: tree.HashStart, Root: tree.Root, Salt: tree.Salt}
}

// TestVeritySizes: the kernel finds each level where the Writer put it. A root hash of another
// tree opens nothing.
func TestVeritySizes(t *testing.T) {
	for _, blocks := range []int{1, 2, 128, 129, 128*20 + 1} {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			path, data, tree := verityFile(t, blocks)
			const name = "layervault-test-verity"
			for _, wrong := range []bool{false, true} {
				if wrong {
					tree.Root[0] ^= 1
				}
				load := func(c *dm.Control, dev uint64) error { return c.LoadVerity(name, verityTable(dev, tree)) }
				over(t, path, name, load, func(_ *dm.Control, node string) {
					if wrong {
						data = data[:min(len(data), 200*verity.BlockSize)] // the kernel's log has a line for each
					}
					failed, changed := read(t, node, data)
					if changed != nil || wrong && len(failed) != len(data)/verity.BlockSize || !wrong && failed != nil {
						t.Errorf("wrong root hash %t: %d I/O errors, changed content in %v", wrong, len(failed), changed)
					}
				})
			}
		})
	}
}

// A file without room for the tree is refused when the table is loaded.
func TestVerityTooSmall(t *testing.T) {
	path, _, tree := verityFile(t, 200)
	must(t, os.Truncate(path, 200*verity.BlockSize))
	const name = "layervault-test-verity"
	load := func(c *dm.Control, dev uint64) error {
		if err := c.LoadVerity(name, verityTable(dev, tree)); !errors.Is(err, dm.ErrTarget) {
			t.Errorf("%v, want %v", err, dm.ErrTarget)
		}
		return c.Load(name, true, dm.Target{Length: 8, Type: "error"})
	}
	over(t, path, name, load, func(*dm.Control, string) {})
}
