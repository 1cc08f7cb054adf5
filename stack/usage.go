package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"layervault/crypt"
)

// ext4Reserved is how many of ext4's inodes are no files, except for the root directory, which
// is one of them: the first other inode is number 11 (s_first_ino).
const ext4Reserved = 10

// UsageAt is Usage for a layer that is attached at a directory, from the counters of its file
// system: its time does not depend on the number of files. What an image holds beside the
// layer's content is a handful of directories, and taken off.
func UsageAt(at string) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return Usage{}, fmt.Errorf("usage of the layer at %s: %w", at, err)
	}
	if st.Type != unix.EXT4_SUPER_MAGIC {
		return usageBelow(filepath.Join(at, crypt.DirDiff), nil)
	}
	u := Usage{
		Inodes: int64(st.Files) - int64(st.Ffree) - ext4Reserved, //nolint:unconvert // 32 bit has other types
		Bytes:  (int64(st.Blocks) - int64(st.Bfree)) * int64(st.Bsize),
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of the layer at %s: %w", at, err)
	}
	root, err := os.Lstat(at)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of the layer at %s: %w", at, err)
	}
	u.Bytes -= blocksOf(root)
	for _, e := range entries {
		if e.Name() == crypt.DirDiff {
			continue
		}
		other, err := usageBelow(filepath.Join(at, e.Name()), isLinked)
		if err != nil {
			return Usage{}, err
		}
		u.Inodes -= other.Inodes
		u.Bytes -= other.Bytes
	}
	// Between the two readings a container may have removed files.
	u.Inodes, u.Bytes = max(u.Inodes, 0), max(u.Bytes, 0)
	return u, nil
}

// isLinked says that a file may be among the content too: overlayfs keeps a whiteout in its work
// directory, and makes the others links to it.
func isLinked(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && !fi.IsDir() && st.Nlink > 1
}

// usageBelow is usageOfTree of a directory that may be absent.
func usageBelow(dir string, omit func(fs.FileInfo) bool) (Usage, error) {
	u, err := usageOfTree(context.Background(), dir, omit)
	if errors.Is(err, os.ErrNotExist) {
		return u, nil
	}
	return u, err
}

// usageOfTree measures a directory by its files, without those that omit says, nil for none.
func usageOfTree(ctx context.Context, dir string, omit func(fs.FileInfo) bool) (u Usage, err error) {
	err = eachInode(ctx, dir, func(fi fs.FileInfo) {
		if omit != nil && omit(fi) {
			return
		}
		u.Inodes++
		u.Bytes += blocksOf(fi)
	})
	return u, err
}

func blocksOf(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * blockUnit
	}
	return 0
}
