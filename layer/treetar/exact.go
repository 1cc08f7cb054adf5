package treetar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/go-archive"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"layervault/crypt/layertar"
)

// Exact writes the tar of a tree that does not change, the root included, for an import that takes
// it literally (crypt.Making.Literal): owners, times with nanoseconds, all extended attributes,
// hard links, sockets, overlayfs's whiteouts and marks as they are. The same tree always makes the
// same bytes. Not kept: the times of the last access and of the last change of an inode, which not
// every file system of a sealed image has; and holes, which are zeros in the tar.
//
// A file that vanishes, or cannot be read or described, is an error.
func Exact(ctx context.Context, w io.Writer, root string, log *slog.Logger) error {
	t := New(w, root, user.IdentityMapping{}, log)
	return errors.Join(t.addExactly(ctx), t.Close())
}

func (t *Writer) addExactly(ctx context.Context) error {
	return filepath.WalkDir(t.root, func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.root, name)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			err = t.exact(name, rel, fi)
		}
		if err != nil {
			return fmt.Errorf("pack %s: %w", shorten(rel), err)
		}
		return nil
	})
}

func (t *Writer) exact(name, rel string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no inode")
	}
	link, records := "", map[string]string{}
	if fi.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		// tar has none: a pipe, with a note that only our import reads.
		fi, records[layertar.SocketRecord] = pipe{fi}, "1"
	}
	hdr, err := archive.FileInfoHeader(rel, fi, link)
	if err != nil {
		return err
	}
	hdr.ModTime, hdr.PAXRecords = fi.ModTime(), records
	if err := readXattrs(name, hdr); err != nil {
		return err
	}
	if t.isLink(st, hdr) {
		return t.WriteHeader(hdr)
	}
	if hdr.Typeflag == tar.TypeReg && hdr.Size > 0 {
		return t.exactContent(name, hdr)
	}
	return t.WriteHeader(hdr)
}

// pipe shows a socket as a pipe.
type pipe struct{ fs.FileInfo }

func (p pipe) Mode() fs.FileMode { return p.FileInfo.Mode()&^fs.ModeSocket | fs.ModeNamedPipe }

func (t *Writer) exactContent(name string, hdr *tar.Header) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := t.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{t.Writer}, io.LimitReader(f, hdr.Size), t.buf)
	if err == nil && n < hdr.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

const (
	paxXattr = "SCHILY.xattr."
	// selinuxXattr is shown for each file where SELinux runs, on the disk or not: a policy makes
	// it from the mount. No layer carries it.
	selinuxXattr = "security.selinux"
)

// readXattrs adds a file's extended attributes.
func readXattrs(name string, hdr *tar.Header) error {
	list, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(name, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for _, attr := range strings.Split(string(bytes.TrimSuffix(list, []byte{0})), "\x00") {
		if attr == "" || attr == selinuxXattr {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(name, attr, b) })
		if err != nil {
			return fmt.Errorf("extended attribute %s: %w", attr, err)
		}
		hdr.PAXRecords[paxXattr+attr] = string(value)
	}
	return nil
}

// grow calls read with a buffer that is large enough. The kernel's bound of both is 64 KiB.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := read(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10)
		n, err = read(buf)
	}
	return buf[:max(n, 0)], err
}
