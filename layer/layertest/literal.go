package layertest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/erofs"
	"layervault/crypt/layertar"
	"layervault/crypt/luks2"
)

// behindHeader is where the file system of an image lies in its file.
type behindHeader struct{ *os.File }

func (b behindHeader) WriteAt(p []byte, at int64) (int, error) {
	return b.File.WriteAt(p, at+luks2.DefaultDataOffset)
}

func (b behindHeader) ReadAt(p []byte, at int64) (int, error) {
	return b.File.ReadAt(p, at+luks2.DefaultDataOffset)
}

// importLiterally makes an EROFS, as package crypt does.
func (p plain) importLiterally(ctx context.Context, tar io.Reader) (res crypt.ImportResult, err error) {
	tmp := filepath.Join(filepath.Dir(p.im.Path), "."+filepath.Base(p.im.Path)+".tmp-layertest")
	defer func() {
		if rmErr := os.Remove(tmp); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}()
	if res.UUID, err = format(tmp, 0); err != nil {
		return res, err
	}
	f, err := os.OpenFile(tmp, os.O_RDWR, 0)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	made, err := erofs.FromTar(ctx, tar, behindHeader{f}, layertar.Options{Dir: crypt.DirDiff, Literal: true})
	if err != nil {
		return res, err
	}
	res.Size, res.Bytes = made.ContentSize, luks2.DefaultDataOffset+made.Size
	if err := f.Truncate(res.Bytes); err != nil {
		return res, err
	}
	return res, os.Rename(tmp, p.im.Path)
}

// fileSystem asks the superblock.
func (p plain) fileSystem() (_ crypt.FileSystem, err error) {
	f, err := os.Open(p.im.Path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var magic [4]byte
	if _, err := (behindHeader{f}).ReadAt(magic[:], 1024); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if binary.LittleEndian.Uint32(magic[:]) == unix.EROFS_SUPER_MAGIC_V1 {
		return crypt.EROFS, nil
	}
	return crypt.Ext4, nil
}

// Outdated is true of every image that is not an EROFS.
func (p plain) Outdated(context.Context) (bool, error) {
	fs, err := p.fileSystem()
	return fs == crypt.Ext4, err
}

// Opened is the number of a loop device over the image.
func (p plain) Opened() (uint64, error) {
	want, err := os.Stat(p.im.Path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return 0, err
	}
	for _, name := range loops {
		over, err := os.ReadFile(name)
		if err != nil || len(over) == 0 {
			continue // detached while we looked
		}
		if fi, err := os.Stat(string(over[:len(over)-1])); err == nil && os.SameFile(fi, want) {
			var st unix.Stat_t
			if err := unix.Stat("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(name))), &st); err != nil {
				return 0, err
			}
			return uint64(st.Rdev), nil //nolint:unconvert // 32 bit has another type
		}
	}
	return 0, nil
}
