// Package durable writes small files so that a power cut leaves either the old
// content or the new, never a mixture and never an empty file.
package durable

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
)

// WriteFile replaces root's file name by data. The order is what makes it
// atomic: a temporary file is written and fsynced, read back and compared (a
// full or failing disk may lie to write), renamed over name, and the directories
// of both names are fsynced. tmp must be on the same file system; after a crash
// it may be left behind, so give it a name that a start-up sweep knows.
func WriteFile(root *os.Root, tmp, name string, data []byte, perm os.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
			if rmErr := root.Remove(tmp); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
	}()
	f, err := root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = verify(f, data)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := root.Rename(tmp, name); err != nil {
		return err
	}
	if err := SyncDir(root, path.Dir(name)); err != nil {
		return err
	}
	if path.Dir(tmp) != path.Dir(name) {
		return SyncDir(root, path.Dir(tmp))
	}
	return nil
}

func verify(f *os.File, want []byte) error {
	got := make([]byte, len(want)+1)
	n, _ := f.ReadAt(got, 0) // io.EOF is expected; anything else shows as a difference
	if !bytes.Equal(got[:n], want) {
		return fmt.Errorf("read back %d bytes that differ from the %d written", n, len(want))
	}
	return nil
}

// SyncDir makes renames, creations and removals in one directory durable.
func SyncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
