// Package vaulttest has a vault of format 1 for tests, frozen as the last version that wrote
// that format left it.
package vaulttest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "embed" // the archive
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// format1 is made by make-format1, which tells what is in it.
//
//go:embed format1.tar.gz
var format1 []byte

// Images and Records is what the vault, and the unsealed-vault, have: layers base, top and
// c (writable), a volume, a disk; a volume.
const (
	VaultImages     = 5
	VaultRecords    = 9 // four layers, three volumes, the revision, what dockerd said
	UnsealedImages  = 1
	UnsealedRecords = 1
)

// Unpack puts the vault below dir, which is /persist then. Holes stay holes.
func Unpack(dir string) (err error) {
	z, err := gzip.NewReader(bytes.NewReader(format1))
	if err != nil {
		return err
	}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("frozen vault: %w", err)
		}
		path := filepath.Join(dir, strings.TrimPrefix(h.Name, "persist"))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, os.FileMode(h.Mode))
		} else {
			err = unpackFile(path, h, in)
		}
		if err != nil {
			return fmt.Errorf("frozen vault: %w", err)
		}
	}
}

func unpackFile(path string, h *tar.Header, in io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(h.Mode))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, 64<<10)
	zero := make([]byte, len(block))
	for at := int64(0); at < h.Size; {
		n, err := io.ReadFull(in, block[:min(int64(len(block)), h.Size-at)])
		if err != nil {
			return err
		}
		if !bytes.Equal(block[:n], zero[:n]) {
			if _, err := f.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return f.Truncate(h.Size)
}
