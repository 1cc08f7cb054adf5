package versatile

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"layervault/internal/durable"
	"layervault/keys"
)

// readKeyFile returns the key; the caller wipes it. The checks are made on the open
// file, so nothing can be put in its place between check and use, and a symbolic link
// is not followed.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w at %s", ErrNoKeyFile, path)
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a symbolic link", ErrBadKeyFile, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("examine key file %s: %w", path, err)
	}
	switch me := os.Geteuid(); {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrBadKeyFile, path)
	case int(st.Uid) != me || st.Mode&0o077 != 0:
		return nil, &keys.NotPrivate{Path: path, Mode: st.Mode & 0o7777, Owner: int(st.Uid), Want: me}
	case st.Size != keys.KeySize:
		return nil, fmt.Errorf("%w: %s has %d bytes, want %d", ErrBadKeyFile, path, st.Size, keys.KeySize)
	}
	key := make([]byte, keys.KeySize)
	if _, err := io.ReadFull(f, key); err != nil {
		clear(key)
		return nil, fmt.Errorf("read key file %s: %w", path, err)
	}
	return key, nil
}

// createKeyFile makes a random key file. It is complete and durable before it has its
// name, and an existing file is never replaced.
func createKeyFile(path string) ([]byte, error) {
	key := make([]byte, keys.KeySize)
	_, _ = rand.Read(key) // never fails since Go 1.24
	if err := durable.Create(path, key); err != nil {
		clear(key)
		return nil, fmt.Errorf("key file: %w", err)
	}
	back, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(back, key) {
		return nil, fmt.Errorf("%w: %s: data read back differs from data written", ErrBadKeyFile, path)
	}
	clear(back)
	return key, nil
}
