// Package treetar writes a directory tree as the tar of a layer.
//
// There are two ways. For others (AddTree, AddChanges) the tar is what docker's own drivers make
// of the tree, byte for byte. For this program (AddExactly) it holds all that a file system keeps
// of a file, and overlayfs's marks as they lie on the disk.
package treetar

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/go-archive"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// copyBuffer is what file content is read by: large enough that the pipe to the
// reader is not the bottleneck.
const copyBuffer = 256 << 10

// opaqueXattr marks a directory that hides the lowers' (overlayfs.rst, "whiteouts
// and opaque directories").
const opaqueXattr = "trusted.overlay.opaque"

// Writer writes files of one tree as a layer tar, with the headers docker's
// own drivers write (through moby/go-archive), so that a layer has the same digest
// whichever driver made its tar. Unlike go-archive's, a file that cannot be read
// ends the tar with an error instead of being left out.
type Writer struct {
	*tar.Writer
	root  string
	idmap user.IdentityMapping
	links map[uint64]string // first name of each inode with several
	buf   []byte
	log   *slog.Logger
}

// New makes a Writer for the tree at a directory. The owners in the tar are those of idmap's
// container.
func New(w io.Writer, root string, idmap user.IdentityMapping, log *slog.Logger) *Writer {
	return &Writer{
		Writer: tar.NewWriter(w), root: root, idmap: idmap,
		links: make(map[uint64]string), buf: make([]byte, copyBuffer), log: log,
	}
}

// AddTree adds everything below the root, an upper directory, turning overlay's
// whiteouts into those of a layer tar.
func (t *Writer) AddTree(ctx context.Context) error {
	return filepath.WalkDir(t.root, func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == t.root {
			return t.leaveOut(name, err)
		}
		rel, err := filepath.Rel(t.root, name)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return t.leaveOut(name, err)
		}
		return t.leaveOut(name, t.add(rel, fi, true))
	})
}

// leaveOut drops the error of a file that vanished, and of a path too long for any
// system call. A container can create such a path step by step, but no tool can read
// it, docker's own driver omits it, and no layer could hold it.
func (t *Writer) leaveOut(name string, err error) error {
	if errors.Is(err, unix.ENAMETOOLONG) {
		t.log.Warn("path is longer than 4095 bytes; omitted from the layer", "path", shorten(strings.TrimPrefix(name, t.root)))
		return nil
	}
	return ignoreVanished(err)
}

// shorten makes a path fit for a log.
func shorten(path string) string {
	const most = 200
	if len(path) > most {
		return path[:most] + "..."
	}
	return path
}

// AddChanges adds what a sorted list of changes names, from a merged tree.
func (t *Writer) AddChanges(ctx context.Context, changes []archive.Change) error {
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		rel := strings.TrimPrefix(c.Path, "/")
		if c.Kind == archive.ChangeDelete {
			if err := t.WriteHeader(whiteout(rel)); err != nil {
				return err
			}
			continue
		}
		fi, err := os.Lstat(filepath.Join(t.root, rel))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := t.add(rel, fi, false); err != nil {
			return err
		}
	}
	return nil
}

// whiteout is the entry that deletes a path.
func whiteout(rel string) *tar.Header {
	dir, base := path.Split(rel)
	return &tar.Header{
		Format: tar.FormatPAX, Typeflag: tar.TypeReg, Mode: 0o600, Name: dir + archive.WhiteoutPrefix + base,
	}
}

// add writes one file. upper says that the tree is an upper directory, in which
// some files are overlay's marks.
func (t *Writer) add(rel string, fi fs.FileInfo, upper bool) error {
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil // tar has no sockets, and one of an image has no listener
	}
	name := filepath.Join(t.root, rel)
	var link string
	if fi.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(name); err != nil {
			return ignoreVanished(err)
		}
	}
	hdr, err := archive.FileInfoHeader(rel, fi, link)
	if err != nil {
		return err
	}
	if err := archive.ReadSecurityXattrToTarHeader(name, hdr); err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no inode", name)
	}
	if upper && IsWhiteout(fi) {
		// The kernel made it, so its owner means nothing: no mapping.
		dir, base := path.Split(hdr.Name)
		hdr.Name, hdr.Typeflag, hdr.Mode, hdr.Size = dir+archive.WhiteoutPrefix+base, tar.TypeReg, 0o600, 0
		return t.WriteHeader(hdr)
	}
	if !t.idmap.Empty() {
		if hdr.Uid, hdr.Gid, err = t.idmap.ToContainer(int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if t.isLink(st, hdr) {
		return t.WriteHeader(hdr)
	}
	if hdr.Typeflag == tar.TypeReg && hdr.Size > 0 {
		return t.addContent(name, hdr)
	}
	if err := t.WriteHeader(hdr); err != nil {
		return err
	}
	if upper && fi.IsDir() {
		return t.addOpaque(name, hdr)
	}
	return nil
}

// isLink makes the entry of a file that the tar has by another name already a link to that name.
func (t *Writer) isLink(st *syscall.Stat_t, hdr *tar.Header) bool {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Nlink <= 1 {
		return false
	}
	first, again := t.links[st.Ino]
	if !again {
		t.links[st.Ino] = hdr.Name
		return false
	}
	hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
	return true
}

// addOpaque adds the mark of a directory that hides what lies below it.
func (t *Writer) addOpaque(name string, dir *tar.Header) error {
	opaque, err := IsOpaque(name)
	if err != nil || !opaque {
		return ignoreVanished(err)
	}
	return t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Mode: dir.Mode & int64(fs.ModePerm), Name: path.Join(dir.Name, archive.WhiteoutOpaqueDir), //nolint:gosec // written to a tar, not taken from one
		Uid: dir.Uid, Gid: dir.Gid,
	})
}

// addContent writes a regular file. The header fixes the length while a container may
// be writing: a file that grew is cut, a file that shrank is padded with zeros, as in
// any tar of a live tree.
func (t *Writer) addContent(name string, hdr *tar.Header) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return ignoreVanished(err) // before its header: nothing is promised yet
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := t.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{t.Writer}, io.LimitReader(f, hdr.Size), t.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n < hdr.Size {
		t.log.Warn("file shrank while it was read; padded with zeros in the tar", "file", hdr.Name, "missing", hdr.Size-n)
		_, err = io.CopyBuffer(onlyWriter{t.Writer}, io.LimitReader(zeros{}, hdr.Size-n), t.buf)
	}
	return err
}

// onlyWriter hides ReadFrom, which would not use the buffer.
type onlyWriter struct{ io.Writer }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// IsWhiteout recognises the mark of a deletion: a character device 0/0.
func IsWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// IsOpaque recognises a directory that hides what lies below it in other layers.
func IsOpaque(dir string) (bool, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, opaqueXattr, value[:])
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ERANGE):
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "lgetxattr", Path: dir, Err: err}
	}
	return n == 1 && value[0] == 'y', nil
}

// ignoreVanished drops the error of a file that was deleted while its directory
// was read: a container may be running on it.
func ignoreVanished(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
