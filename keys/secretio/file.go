// Package secretio reads and writes the secrets of a command line: in private files, through
// standard input and output, and on a terminal. A secret is []byte, and its reader wipes it.
package secretio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"layervault/keys"
)

var (
	// ErrLength: a file is empty, or longer than what it should hold.
	ErrLength = errors.New("file of another length than expected")
	// ErrDiffer: a secret that was asked for twice was typed in two ways.
	ErrDiffer = errors.New("the two entries differ")
)

const (
	// maxSecret bounds what is read as a recovery key, passphrase or PIN, in bytes.
	maxSecret = 4096
	// MaxPEM bounds what is read as a key in PEM, or as another small file; RSA of 4096 bits
	// takes 3.3 KB.
	MaxPEM = 64 << 10
)

// Read reads a secret from a file, "-" for standard input, without the line's end. The file
// must be private, like a key file. The caller wipes the result. Errors: keys.ErrBadMode,
// ErrLength.
func Read(stdin io.Reader, name string) (_ []byte, err error) {
	in := stdin
	if name != "-" {
		f, err := openPrivate(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	buf := make([]byte, maxSecret+1)
	n, err := io.ReadFull(in, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	secret := bytes.TrimRight(buf[:n], "\r\n")
	if len(secret) == 0 || n > maxSecret {
		clear(buf)
		return nil, fmt.Errorf("%w: %s holds no secret of 1 to %d bytes", ErrLength, name, maxSecret)
	}
	return secret, nil
}

// openPrivate opens a file that only its owner can read.
func openPrivate(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		err = &keys.NotPrivate{Path: name, Mode: uint32(info.Mode().Perm())}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadPrivatePEM reads a private key from a private file. The caller wipes it.
func ReadPrivatePEM(name string) ([]byte, error) {
	f, err := openPrivate(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, MaxPEM)
}

// ReadFile reads a file of at most limit bytes; "-" is standard input, unless that is nil.
// Error: ErrLength.
func ReadFile(stdin io.Reader, name string, limit int) ([]byte, error) {
	if name == "-" && stdin != nil {
		return readAtMost(stdin, "standard input", limit)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, limit)
}

func readAtMost(r io.Reader, name string, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > limit {
		clear(data)
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrLength, name, limit)
	}
	return data, nil
}

// Write writes a secret to stdout for "-", and otherwise to a new private file: one that
// exists may have other readers.
func Write(stdout io.Writer, name string, secret []byte) error {
	if name == "-" {
		if _, err := stdout.Write(secret); err != nil {
			return fmt.Errorf("write the key: %w", err)
		}
		return nil
	}
	if err := WriteNew(name, secret, 0o600); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	return nil
}

// WriteNew makes a file; one of that name must not exist.
func WriteNew(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
