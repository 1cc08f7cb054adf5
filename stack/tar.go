package stack

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

// tarWriter writes files of one tree as a layer tar, with the headers docker's
// own drivers write (through moby/go-archive), so that a layer has the same digest
// whichever driver made its tar. Unlike go-archive's, a file that cannot be read
// ends the tar with an error instead of being left out.
type tarWriter struct {
	*tar.Writer
	root  string
	idmap user.IdentityMapping
	links map[uint64]string // first name of each inode with several
	buf   []byte
	log   *slog.Logger
}

func newTarWriter(w io.Writer, root string, idmap user.IdentityMapping, log *slog.Logger) *tarWriter {
	return &tarWriter{
		Writer: tar.NewWriter(w), root: root, idmap: idmap,
		links: make(map[uint64]string), buf: make([]byte, copyBuffer), log: log,
	}
}

// addTree adds everything below the root, an upper directory, turning overlay's
// whiteouts into those of a layer tar.
func (t *tarWriter) addTree(ctx context.Context) error {
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
func (t *tarWriter) leaveOut(name string, err error) error {
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

// addChanges adds what a list of changes names, from a merged tree.
func (t *tarWriter) addChanges(ctx context.Context, changes []archive.Change) error {
	sortChanges(changes)
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
func (t *tarWriter) add(rel string, fi fs.FileInfo, upper bool) error {
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
	if upper && isWhiteout(fi) {
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
	if !fi.IsDir() && st.Nlink > 1 {
		if first, again := t.links[st.Ino]; again {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return t.WriteHeader(hdr)
		}
		t.links[st.Ino] = hdr.Name
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

// addOpaque adds the mark of a directory that hides what lies below it.
func (t *tarWriter) addOpaque(name string, dir *tar.Header) error {
	opaque, err := isOpaque(name)
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
func (t *tarWriter) addContent(name string, hdr *tar.Header) (err error) {
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

// isWhiteout recognises the mark of a deletion: a character device 0/0.
func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func isOpaque(dir string) (bool, error) {
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
