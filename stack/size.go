package stack

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/moby/go-archive"

	"layervault/layer"
)

// Size is the size in bytes of the files by which a layer differs from parent, "" for the empty
// layer: each inode once, symbolic links by the length of their target, directories not at all.
// For the same content it is what layer.Store.Import answers.
func (s *Stack) Size(ctx context.Context, r layer.Record, parent string) (size int64, err error) {
	switch {
	case r.Parent == parent && r.Kind != layer.Writable:
		return r.Size, nil // counted when it was sealed; 0 while it is fresh
	case r.Parent == parent:
		t, err := s.openContent(ctx, r)
		if err != nil {
			return 0, err
		}
		size, err := treeSize(ctx, t.path)
		return size, errors.Join(err, t.Close(ctx))
	}
	upper, err := s.openMerged(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, upper.Close(ctx)) }()
	if parent == "" {
		return treeSize(ctx, upper.path)
	}
	changes, err := s.compare(ctx, upper, parent)
	if err != nil {
		return 0, err
	}
	return archive.ChangesSize(upper.path, changes), nil
}

// Usage is the disk usage of a layer's own content.
type Usage struct {
	Inodes int64
	Bytes  int64 // of the blocks that are allocated to them
}

// Usage measures the disk usage of a layer's own content in its file system, directories
// included.
func (s *Stack) Usage(ctx context.Context, r layer.Record) (u Usage, err error) {
	if r.Kind == layer.Fresh {
		return Usage{}, nil
	}
	t, err := s.openContent(ctx, r)
	if err != nil {
		return Usage{}, err
	}
	defer func() { err = errors.Join(err, t.Close(ctx)) }()
	return usageOfTree(ctx, t.path, nil)
}

// blockUnit is the unit of st_blocks (stat(3type)), whatever the file system's blocks are.
const blockUnit = 512

// treeSize sums the sizes of all files below a directory, each inode once.
func treeSize(ctx context.Context, dir string) (int64, error) {
	var size int64
	err := eachInode(ctx, dir, func(fi fs.FileInfo) {
		if !fi.IsDir() {
			size += fi.Size()
		}
	})
	return size, err
}

// eachInode calls f for a directory and everything below it, each inode once.
func eachInode(ctx context.Context, dir string, f func(fs.FileInfo)) error {
	seen := make(map[uint64]struct{}) // of one file system: image or overlay
	return filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return ignoreVanished(err)
		}
		fi, err := e.Info()
		if err != nil {
			return ignoreVanished(err)
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && !fi.IsDir() && st.Nlink > 1 {
			if _, again := seen[st.Ino]; again {
				return nil
			}
			seen[st.Ino] = struct{}{}
		}
		f(fi)
		return nil
	})
}

// ignoreVanished drops the error of a file that was deleted while its directory
// was read: a container may be running on it.
func ignoreVanished(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
