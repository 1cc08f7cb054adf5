package crypt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/verity"
)

// hashedFile is a file of so many blocks of noise with their tree behind them.
func hashedFile(t *testing.T, blocks int) (*os.File, verity.Tree) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "device"))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	data := make([]byte, blocks*verity.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
	w, err := verity.NewWriter(f, verity.Options{Limit: int64(len(data))})
	must(t, err)
	_, err = w.WriteAt(data, 0)
	must(t, err)
	tree, err := w.Finish(t.Context(), int64(len(data)))
	must(t, err)
	return f, tree
}

// badSector is a device with a block that the disk cannot read.
type badSector struct {
	io.ReaderAt
	at  int64
	err error
}

func (b badSector) ReadAt(p []byte, at int64) (int, error) {
	if at <= b.at && b.at < at+int64(len(p)) {
		return 0, &os.PathError{Op: "read", Path: "/dev/dm-1", Err: b.err}
	}
	return b.ReaderAt.ReadAt(p, at)
}

// flipped is a device with one changed bit.
type flipped struct {
	io.ReaderAt
	at int64
}

func (f flipped) ReadAt(p []byte, at int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, at)
	if at <= f.at && f.at < at+int64(n) {
		p[f.at-at] ^= 1
	}
	return n, err
}

// Every byte of data and tree is read once and counted; a changed one is named.
func TestReadAll(t *testing.T) {
	const blocks = 300
	f, tree := hashedFile(t, blocks)
	var last int64
	r := crypt.Counted(f, tree.End(), func(done, total int64) {
		if done <= last || total != tree.End() {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	must(t, crypt.ReadAll(t.Context(), r, &tree, tree.End()))
	if last != tree.End() {
		t.Errorf("read %d of %d bytes", last, tree.End())
	}
	for _, tt := range []struct {
		name string
		at   int64
		want crypt.BadBlock
	}{
		{"first", 0, crypt.BadBlock{}},
		{"last", blocks*verity.BlockSize - 1, crypt.BadBlock{Block: blocks - 1}},
		{"top of the tree", blocks * verity.BlockSize, crypt.BadBlock{Block: blocks, Level: 2}},
		{"end of the tree", tree.End() - 1, crypt.BadBlock{Block: blocks + 3, Level: 1}},
	} {
		err := crypt.ReadAll(t.Context(), flipped{f, tt.at}, &tree, tree.End())
		var corrupt *crypt.CorruptError
		if !errors.As(err, &corrupt) || !errors.Is(err, crypt.ErrCorrupt) || len(corrupt.Bad) != 1 || corrupt.Bad[0] != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// Without a tree all is read, to the last byte, and nothing is found.
func TestReadAllWithoutTree(t *testing.T) {
	const size = 3<<20 + 512
	content := bytes.Repeat([]byte{7}, size)
	var last int64
	r := crypt.Counted(bytes.NewReader(content), size, func(done, _ int64) { last = done })
	if err := crypt.ReadAll(t.Context(), r, nil, size); err != nil || last != size {
		t.Errorf("read %d of %d bytes, %v", last, size, err)
	}
	if err := crypt.ReadAll(t.Context(), flipped{bytes.NewReader(content), 5}, nil, size); err != nil {
		t.Error(err)
	}
	if err := crypt.ReadAll(t.Context(), bytes.NewReader(content), nil, size+1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shorter: %v", err)
	}
}

// A disk that cannot read is told from changed content, and the place is named.
func TestReadAllUnreadable(t *testing.T) {
	f, tree := hashedFile(t, 600)
	for _, errno := range []error{unix.EIO, unix.ENODATA} {
		for name, with := range map[string]*verity.Tree{"block 512": &tree, "byte 2097152": nil} {
			err := crypt.ReadAll(t.Context(), badSector{f, 513 * verity.BlockSize, errno}, with, tree.End())
			if !errors.Is(err, crypt.ErrUnreadable) || !errors.Is(err, errno) || errors.Is(err, crypt.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, want %s in it", err, name)
			}
		}
	}
	if err := crypt.ReadAll(t.Context(), badSector{f, 0, unix.ENOMEM}, &tree, tree.End()); err == nil || errors.Is(err, crypt.ErrUnreadable) {
		t.Errorf("no memory: %v", err)
	}
}

func TestReadAllCancelled(t *testing.T) {
	f, tree := hashedFile(t, 600)
	for _, with := range []*verity.Tree{&tree, nil} {
		ctx, cancel := context.WithCancel(t.Context())
		r := crypt.Counted(f, tree.End(), func(done, _ int64) {
			if done > 1<<20 {
				cancel()
			}
		})
		if err := crypt.ReadAll(ctx, r, with, tree.End()); !errors.Is(err, context.Canceled) {
			t.Error(fmt.Sprint(with != nil), err)
		}
	}
}

// Each open image counts once.
func TestIsImageDevice(t *testing.T) {
	const uuid = "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3a"
	for name, want := range map[string]bool{
		crypt.DeviceName(uuid): true, crypt.VerityName(uuid): false, crypt.AsidePrefix + uuid + "-1a2b3c4d": false, "luks-" + uuid: false,
	} {
		if crypt.IsImageDevice(name) != want {
			t.Errorf("%s: %t", name, !want)
		}
	}
}

// What has no sealed content is not read.
func TestVerifyRefuses(t *testing.T) {
	im := crypt.Image{Path: filepath.Join(t.TempDir(), "image"), Owner: owner, Key: passphrase}
	if _, err := im.Verify(t.Context(), nil); !errors.Is(err, crypt.ErrBadParams) {
		t.Errorf("writable: %v", err)
	}
	im.ReadOnly = true
	if _, err := im.Verify(t.Context(), nil); !errors.Is(err, crypt.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
