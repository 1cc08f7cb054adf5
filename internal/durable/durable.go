// Package durable writes small files so that a power cut leaves either the old
// content or the new, never a mixture and never an empty file, and reads the JSON
// in such files strictly.
package durable

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// WriteFile replaces root's file name by data. The order is what makes it
// atomic: a temporary file is written and fsynced, read back and compared (a
// full or failing disk may lie to write), renamed over name, and the directories
// of both names are fsynced. tmp must be on the same file system; after a crash
// it may be left behind, so give it a name that a start-up sweep knows.
func WriteFile(root *os.Root, tmp, name string, data []byte, perm os.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, errors.Join(err, removeTemp(root, tmp)))
		}
	}()
	if err := stage(root, tmp, data, perm); err != nil {
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

// Replace is WriteFile for a file known by its path, with mode 0600. tmp is a
// name in the same directory.
func Replace(name, tmp string, data []byte) error {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(name), err)
	}
	return errors.Join(WriteFile(root, tmp, filepath.Base(name), data, 0o600), root.Close())
}

// Create makes a new file, with mode 0600, that is complete and durable before it
// has its name. An existing file stays as it is; the error then is fs.ErrExist. A
// crash may leave a temporary file: its name is TempName(name).
func Create(name string, data []byte) error {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("create %s: %w", filepath.Base(name), err)
	}
	base, tmp := filepath.Base(name), TempName(name)
	err = stage(root, tmp, data, 0o600)
	if err == nil {
		err = root.Link(tmp, base) // refuses to replace, unlike rename
	}
	if err = errors.Join(err, removeTemp(root, tmp)); err == nil {
		err = SyncDir(root, ".")
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("create %s: %w", base, err)
	}
	return nil
}

// TempName is a fresh temporary name for the file name, without its directory:
// ".tmp-", the file's own name, and a random part.
func TempName(name string) string { return ".tmp-" + filepath.Base(name) + "-" + rand.Text()[:10] }

// stage makes the temporary file durable. What an earlier crash left under that
// name is removed first, not written to: its mode may differ, or it may be a link.
func stage(root *os.Root, tmp string, data []byte, perm os.FileMode) error {
	if err := removeTemp(root, tmp); err != nil {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
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
	return errors.Join(err, f.Close())
}

func verify(f *os.File, want []byte) error {
	got := make([]byte, len(want)+1)
	defer clear(got)         // the data may be a key
	n, _ := f.ReadAt(got, 0) // io.EOF is expected; anything else shows as a difference
	if !bytes.Equal(got[:n], want) {
		return fmt.Errorf("read back %d bytes that differ from the %d written", n, len(want))
	}
	return nil
}

func removeTemp(root *os.Root, tmp string) error {
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDir makes renames, creations and removals in one directory of root durable.
func SyncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SyncPath is SyncDir for a directory known by its path.
func SyncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
