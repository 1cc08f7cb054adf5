package stack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/layer/treetar"
)

// Changes lists what a layer changes over parent, "" for the empty layer: paths from "/", sorted.
// A directory in which something changed is itself a modification.
func (s *Stack) Changes(ctx context.Context, r layer.Record, parent string) ([]archive.Change, error) {
	changes, err := s.changes(ctx, r, parent)
	if err != nil {
		return nil, err
	}
	sortChanges(changes)
	return changes, nil
}

func sortChanges(changes []archive.Change) {
	slices.SortFunc(changes, func(a, b archive.Change) int { return cmp.Compare(a.Path, b.Path) })
}

func (s *Stack) changes(ctx context.Context, r layer.Record, parent string) (_ []archive.Change, err error) {
	if r.Parent != parent {
		upper, err := s.openMerged(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		changes, err := s.compare(ctx, upper, parent)
		return changes, errors.Join(err, upper.Close(ctx))
	}
	upper, err := s.openContent(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, upper.Close(ctx)) }()
	lower, err := s.openMerged(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lower.Close(ctx)) }()
	c := comparison{upper: upper.path, lower: lower.path}
	_, err = c.dir(ctx, "/", false)
	return c.changes, err
}

// comparison compares an upper directory with the merged view of the layers below it.
// It reads only files of the upper, however large the image is, with the same result as
// a comparison of two merged views.
type comparison struct {
	upper, lower string
	changes      []archive.Change
}

func (c *comparison) note(path string, kind archive.ChangeType) {
	c.changes = append(c.changes, archive.Change{Path: path, Kind: kind})
}

// dir compares one directory of the upper. hidden: no lower entry is visible through
// it. dir reports whether an entry changed.
func (c *comparison) dir(ctx context.Context, path string, hidden bool) (changed bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	entries, err := os.ReadDir(filepath.Join(c.upper, path))
	if err != nil {
		return false, ignoreVanished(err)
	}
	inUpper := make(map[string]struct{}, len(entries))
	for _, e := range entries {
		inUpper[e.Name()] = struct{}{}
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		diff, err := c.entry(ctx, filepath.Join(path, e.Name()), fi, hidden)
		if err != nil {
			return false, err
		}
		changed = changed || diff
	}
	if hidden {
		return changed, nil
	}
	opaque, err := treetar.IsOpaque(filepath.Join(c.upper, path))
	if err != nil || !opaque {
		return changed, err
	}
	// An opaque directory deletes all lower entries that it does not contain.
	below, err := os.ReadDir(filepath.Join(c.lower, path))
	if err != nil {
		return changed, ignoreVanished(err)
	}
	for _, e := range below {
		if _, kept := inUpper[e.Name()]; !kept {
			c.note(filepath.Join(path, e.Name()), archive.ChangeDelete)
			changed = true
		}
	}
	return changed, nil
}

// entry compares one file of the upper; hidden as in dir.
func (c *comparison) entry(ctx context.Context, path string, fi fs.FileInfo, hidden bool) (changed bool, err error) {
	var below fs.FileInfo
	if !hidden {
		below, err = os.Lstat(filepath.Join(c.lower, path))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return false, err
		}
	}
	if treetar.IsWhiteout(fi) {
		if below != nil {
			c.note(path, archive.ChangeDelete)
		}
		return below != nil, nil
	}
	at := len(c.changes)
	var kind archive.ChangeType = archive.ChangeAdd
	changed = true
	if below != nil {
		kind = archive.ChangeModify
		if changed, err = c.differs(path, fi, below); err != nil {
			return false, err
		}
	}
	if fi.IsDir() {
		inside, err := c.dir(ctx, path, below == nil || !below.IsDir())
		if err != nil {
			return false, err
		}
		changed = changed || inside
	}
	if changed {
		c.changes = slices.Insert(c.changes, at, archive.Change{Path: path, Kind: kind})
	}
	return changed, nil
}

// differs reports whether a file differs from the one below. Neither inode nor change
// time can be compared, since copying up alters both; a directory's size and time
// change with its entries, which are listed themselves.
func (c *comparison) differs(path string, a, b fs.FileInfo) (bool, error) {
	sa, okA := a.Sys().(*syscall.Stat_t)
	sb, okB := b.Sys().(*syscall.Stat_t)
	if !okA || !okB {
		return false, fmt.Errorf("%s: no inode", path)
	}
	if sa.Mode != sb.Mode || sa.Uid != sb.Uid || sa.Gid != sb.Gid || sa.Rdev != sb.Rdev {
		return true, nil
	}
	if !a.IsDir() && (a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime())) {
		return true, nil
	}
	capA, err := capability(filepath.Join(c.upper, path))
	if err != nil {
		return false, err
	}
	capB, err := capability(filepath.Join(c.lower, path))
	return !bytes.Equal(capA, capB), err
}

// maxCapability is the size of the largest security.capability value
// (XATTR_CAPS_SZ_3 in linux/capability.h), rounded up.
const maxCapability = 32

func capability(path string) ([]byte, error) {
	value := make([]byte, maxCapability)
	n, err := unix.Lgetxattr(path, "security.capability", value)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, &os.PathError{Op: "lgetxattr", Path: path, Err: err}
	}
	return value[:n], nil
}
