package layertar

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/sys/user"

	"layervault/crypt/fswriter"
)

// Writer of a file system, of which the tar's entries become files. A file that Child
// found may be changed and replaced until Close; package image of ext4 says how.
type Writer interface {
	Root() fswriter.Inode
	Mkdir(parent fswriter.Inode, name string, m fswriter.Meta) (fswriter.Inode, error)
	File(parent fswriter.Inode, name string, m fswriter.Meta, size int64, content io.Reader) (fswriter.Inode, error)
	Symlink(parent fswriter.Inode, name, target string, m fswriter.Meta) (fswriter.Inode, error)
	Special(parent fswriter.Inode, name string, kind fswriter.Kind, major, minor uint32, m fswriter.Meta) (fswriter.Inode, error)
	Link(parent fswriter.Inode, name string, target fswriter.Inode) error
	Unlink(parent fswriter.Inode, name string) error
	SetMeta(i fswriter.Inode, m fswriter.Meta) error
	SetXattr(dir fswriter.Inode, name, value string) error

	Child(dir fswriter.Inode, name string) fswriter.Inode
	Parent(dir fswriter.Inode) fswriter.Inode
	Target(i fswriter.Inode) (string, bool)
	IsDir(i fswriter.Inode) bool
	IsWhiteout(i fswriter.Inode) bool

	ContentSize() int64
	Close() (size int64, err error)
	Abort()
}

// Options of an import.
type Options struct {
	// Dir is the directory at the root of the file system that receives the content.
	Dir     string
	Label   string       // of the file system, at most 16 bytes; EROFS takes 15
	UIDMaps []user.IDMap // container to host, nil for none
	GIDMaps []user.IDMap
	// Heap, shared by many imports, makes one of them at a time faster; may be nil, if there
	// is only one.
	Heap *Heap
	// Literal is for a tar that package treetar made of a tree for this program: names that begin
	// with .wh. are files, overlayfs's whiteouts and marks are taken as they are, and so are times
	// before 1970.
	Literal bool
}

// Heap lends Go's heap to one import at a time. The zero value is ready.
type Heap = fswriter.Heap

// Result says what was written.
type Result struct {
	// ContentSize sums the files' sizes: each file once however many names it has,
	// symbolic links by the length of their target, directories not at all.
	ContentSize int64
	Size        int64 // bytes of dst that the file system takes
}

// Write puts the tar's entries below the directory o.Dir of a new file system, and
// closes that. It reads r to its end, padding after the archive included. now is the
// time of what the tar only implies. When ctx ends, so does Write, even while it waits
// for r: then a last Read of r may still be under way.
func Write(ctx context.Context, r io.Reader, w Writer, o Options, now time.Time) (result Result, err error) {
	defer w.Abort()
	l, err := newLayer(w, o, now)
	if err != nil {
		return Result{}, err
	}
	ahead := readAhead(ctx, r)
	defer ahead.stop(ctx)
	if err := l.read(ahead); err != nil {
		return Result{}, err
	}
	result.ContentSize = w.ContentSize()
	result.Size, err = w.Close()
	return result, err
}

// tarBlock is the unit of a tar in bytes.
const tarBlock = 512

// read takes the archive apart.
func (l *layer) read(r *aheadReader) error {
	tr := tar.NewReader(r)
	last := "" // for errors: where in the archive we are
	for {
		// The next header, or the mark of the end, begins on the next block.
		r.mark((r.count + tarBlock - 1) / tarBlock * tarBlock)
		h, err := tr.Next()
		switch {
		case err == io.EOF && !r.onlyZeros():
			// Package tar takes an archive for complete that ends between the two headers of an
			// entry.
			return fmt.Errorf("tar entry after %.300q: %w", last, io.ErrUnexpectedEOF)
		case err == io.EOF:
			// Padding: the sender blocks until it is read.
			_, err := io.Copy(io.Discard, r)
			return err
		case errors.Is(err, tar.ErrHeader):
			return fmt.Errorf("tar entry after %.300q: %w: %w", last, ErrBadTar, err)
		case err != nil:
			return fmt.Errorf("tar entry after %.300q: %w", last, err)
		}
		if err := l.add(h, tr); err != nil {
			return fmt.Errorf("tar entry %.300q: %w", h.Name, err)
		}
		// What add did not read is skipped here, so that count is at the entry's end.
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return fmt.Errorf("tar entry %.300q: %w", h.Name, err)
		}
		last = h.Name
	}
}
