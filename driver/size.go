package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/moby/go-archive"

	"layervault/layer"
)

// DiffSize is the size in bytes of the files by which a layer differs from
// parent: each inode once, symbolic links by the length of their target,
// directories not at all. For the same content it is what ApplyDiff answers.
func (d *Driver) DiffSize(ctx context.Context, id, parent string) (int64, error) {
	s, r, err := d.lookUp(ctx, id)
	if err != nil {
		return 0, err
	}
	size, err := s.diffSize(ctx, r, parent)
	if err != nil {
		return 0, fmt.Errorf("size of layer %s: %w", id, err)
	}
	return size, nil
}

func (s *session) diffSize(ctx context.Context, r layer.Record, parent string) (size int64, err error) {
	switch {
	case r.Parent == parent && r.Kind != layer.Writable:
		return r.Size, nil // counted when it was sealed; 0 while it is fresh
	case r.Parent == parent:
		t, err := s.openContent(ctx, r)
		if err != nil {
			return 0, err
		}
		size, err := treeSize(ctx, t.path)
		return size, errors.Join(err, t.close(ctx))
	}
	upper, err := s.openMerged(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, upper.close(ctx)) }()
	if parent == "" {
		return treeSize(ctx, upper.path)
	}
	changes, err := s.compare(ctx, upper, parent)
	if err != nil {
		return 0, err
	}
	return archive.ChangesSize(upper.path, changes), nil
}

// treeSize sums the sizes of what is below a directory, each inode once.
func treeSize(ctx context.Context, dir string) (int64, error) {
	var size int64
	seen := make(map[uint64]struct{}) // of one file system: image or overlay
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || e.IsDir() {
			return ignoreVanished(err)
		}
		fi, err := e.Info()
		if err != nil {
			return ignoreVanished(err)
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			if _, again := seen[st.Ino]; again {
				return nil
			}
			seen[st.Ino] = struct{}{}
		}
		size += fi.Size()
		return nil
	})
	return size, err
}

// ignoreVanished drops the error of a file that was deleted while its directory
// was read: a container may be running on it.
func ignoreVanished(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
