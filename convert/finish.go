package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// finisher completes a staged copy: hard links, metadata of folders, and a comparison of every
// name of the two trees. It reads no content: each file's mark has the digest of it.
type finisher struct {
	c     *copier
	stage *folder // where the item is staged
	first map[uint64]string
	sum   hash.Hash // of the tree
	files int64
}

// finish completes to/toName, the copy of from/name, and gives the digest of its tree: of the
// names, kinds, metadata, links and content. The marks stay.
func (c *copier) finish(from *folder, name string, to *folder, toName string) (digest string, err error) {
	f := &finisher{c: c, stage: to, first: map[uint64]string{}, sum: sha256.New()}
	if err := f.entry(from, name, to, toName, ""); err != nil {
		return "", err
	}
	return hex.EncodeToString(f.sum.Sum(nil)), nil
}

// entry finishes one name. rel is its path in the item, "" for the item itself.
func (f *finisher) entry(from *folder, name string, to *folder, toName, rel string) error {
	if f.c.ctx.Err() != nil {
		return context.Cause(f.c.ctx)
	}
	src, err := from.stat(name)
	if err != nil {
		return changedIfGone(err)
	}
	content := ""
	switch kindOf(&src) {
	case unix.S_IFDIR:
		content = "folder"
		if err := f.below(from, name, to, toName, rel); err != nil {
			return err
		}
		// Last, because names that are made in a folder change its times.
		if err := copyMeta(from, name, &src, to, toName); err != nil {
			return err
		}
	case unix.S_IFREG:
		if content, err = f.file(from, name, &src, to, toName, rel); err != nil {
			return err
		}
	case unix.S_IFLNK:
		if content, err = sameLink(from, name, to, toName); err != nil {
			return err
		}
	default:
		content = fmt.Sprintf("device %d", src.Rdev)
	}
	dst, err := to.stat(toName)
	if err != nil {
		return err
	}
	if what := sameMeta(&src, &dst); what != "" {
		return fmt.Errorf("%w: %s of %s", ErrChanged, what, join(from.path, name))
	}
	attrs, err := sameXattrs(from, name, to, toName)
	if err != nil {
		return err
	}
	f.files++
	fmt.Fprintf(f.sum, "%q %o %d %d %d %d %s %s\n", rel, src.Mode, src.Uid, src.Gid, sizeOf(&src), src.Mtim.Nano(), content, attrs)
	return nil
}

// sizeOf is a size that means the same on every file system.
func sizeOf(st *unix.Stat_t) int64 {
	if kindOf(st) == unix.S_IFDIR {
		return 0
	}
	return st.Size
}

func (f *finisher) below(from *folder, name string, to *folder, toName, rel string) error {
	src, err := openFolder(from, name)
	if err != nil {
		return changedIfGone(err)
	}
	defer src.close()
	dst, err := openFolder(to, toName)
	if err != nil {
		return changedIfGone(err)
	}
	defer dst.close()
	names, err := src.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := f.entry(src, n, dst, n, join(rel, n)); err != nil {
			return err
		}
	}
	have, err := dst.names()
	if err == nil && len(have) != len(names) {
		err = fmt.Errorf("%w: names in %s", ErrChanged, src.path)
	}
	return err
}

// file checks that a file's copy was made from what the source is now, and makes it a hard link
// where the source is one.
func (f *finisher) file(from *folder, name string, src *unix.Stat_t, to *folder, toName, rel string) (content string, err error) {
	if src.Nlink > 1 {
		if err := f.hardLink(src.Ino, to, toName, rel); err != nil {
			return "", err
		}
	}
	m, ok := f.c.markFor(to, toName)
	if first := f.first[src.Ino]; !ok && first != "" && first != rel {
		m, ok = f.c.unmarked[join(f.stage.path, first)] // of its other name
	}
	if !ok || !m.of(src) {
		return "", from.fail("copy", name, ErrChanged)
	}
	return m.sum, nil
}

// hardLink makes a name one more of the file that was copied first.
func (f *finisher) hardLink(inode uint64, to *folder, toName, rel string) error {
	first, known := f.first[inode]
	if !known {
		f.first[inode] = f.inStage(to, toName)
		return nil
	}
	fd, err := openBeneath(f.stage.fd, first, unix.O_PATH)
	if err != nil {
		return changedIfGone(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return to.fail("link", toName, err)
	}
	have, err := to.stat(toName)
	if err == nil && have.Ino == st.Ino {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := to.remove(toName); err != nil {
		return err
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), to.fd, toName, unix.AT_SYMLINK_FOLLOW); err != nil {
		return to.fail("link", toName, err)
	}
	return nil
}

// inStage is the path of a staged name, from the folder in which the item is staged.
func (f *finisher) inStage(to *folder, name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(join(to.path, name), f.stage.path), "/")
}

func sameLink(from *folder, name string, to *folder, toName string) (string, error) {
	var a, b [unix.PathMax + 1]byte
	n, err := unix.Readlinkat(from.fd, name, a[:])
	if err != nil {
		return "", from.fail("read the link", name, err)
	}
	m, err := unix.Readlinkat(to.fd, toName, b[:])
	if err != nil || string(a[:n]) != string(b[:m]) {
		return "", from.fail("copy", name, ErrChanged)
	}
	return fmt.Sprintf("link %q", a[:n]), nil
}

// sameXattrs compares extended attributes. Those that a security module gives every new file
// may be more at the destination.
func sameXattrs(from *folder, name string, to *folder, toName string) (string, error) {
	names, err := from.xattrs(name)
	if err != nil || len(names) == 0 {
		return "", err
	}
	h := sha256.New()
	for _, attr := range names {
		want, err := from.xattr(name, attr)
		if err != nil {
			return "", changedIfGone(err)
		}
		have, err := to.xattr(toName, attr)
		if err != nil || string(want) != string(have) {
			return "", fmt.Errorf("%w: extended attribute %s of %s", ErrChanged, attr, join(from.path, name))
		}
		fmt.Fprintf(h, "%q %x\n", attr, want)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// agent is the owner of an area.
type agent struct{ uid, gid int }

// agentOf is who owns what lies in a target's area: the agents' areas are closed to everybody
// else, and an agent could not read what keeps the owner that it had. nil: the owners stay.
func agentOf(t Target, at *folder) *agent {
	if t.Area != Verifier && t.Area != Downloader {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(at.fd, &st); err != nil || st.Uid == 0 && st.Gid == 0 {
		return nil
	}
	return &agent{int(st.Uid), int(st.Gid)}
}

// settle removes the marks of a complete copy, and gives it to its agent, if there is one.
// Times of change of the inode, which no copy keeps, are all else that this alters.
func settle(ctx context.Context, at *folder, name string, to *agent, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	st, err := at.stat(name)
	if err != nil {
		return err
	}
	if to != nil {
		if err := unix.Fchownat(at.fd, name, to.uid, to.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return at.fail("set the owner of", name, err)
		}
	}
	switch kindOf(&st) {
	case unix.S_IFREG:
		return at.unmark(name)
	case unix.S_IFDIR:
	default:
		return nil
	}
	if depth > maxDepth {
		return at.fail("unmark", name, ErrTooDeep)
	}
	below, err := openFolder(at, name)
	if err != nil {
		return err
	}
	defer below.close()
	names, err := below.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := settle(ctx, below, n, to, depth+1); err != nil {
			return err
		}
	}
	return nil
}
