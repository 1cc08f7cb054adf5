package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"layervault/internal/durable"
	"layervault/keys"
)

// maxPEM bounds what is read as a key in PEM, or as another small file of people's; RSA
// of 4096 bits takes 3.3 KB.
const maxPEM = 64 << 10

// readPrivatePEM reads a private key, which nobody else may read. The caller wipes it.
func readPrivatePEM(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o; chmod 0600 it", keys.ErrBadMode, name, info.Mode().Perm())
	}
	return readBounded(name)
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, maxPEM)
}

func readAtMost(r io.Reader, name string, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > limit {
		return nil, usagef("%s is longer than %d bytes", name, limit)
	}
	return data, nil
}

// readWhole reads a small file, - for standard input.
func (a *app) readWhole(name string) ([]byte, error) {
	if name == "-" {
		return readAtMost(a.in, "standard input", maxPEM)
	}
	return readBounded(name)
}

// writeNew makes a file that holds no secret; one of that name must not exist.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// replaceFile replaces a file of the tier, or leaves it as it was.
func replaceFile(name string, data []byte) (err error) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	base := filepath.Base(name)
	return durable.WriteFile(root, ".tmp-"+base, base, data, 0o600)
}
