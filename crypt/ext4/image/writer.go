package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"layervault/crypt/fswriter"
)

// Options of an image.
type Options = fswriter.Options

// sizes: an image of 40,000 small files takes 14 MiB of pages and 24 MiB of heap in all. The
// kernel makes a mapping outside of the heap anew each time, page by page: half of the time
// of such an image in User-Mode Linux. A larger image moves its pages out of the heap.
var sizes = fswriter.Sizes{Record: inodeSize, Reserved: inoFirst, Frames: 224, Heap: 24 << 20}

// MaxReplaced bounds how many pieces of free space replaced files leave behind: an
// archive in which entries replace others that often is no layer.
const MaxReplaced = 1 << 18

// Writer builds one image. It is used from one goroutine. After an error only Abort
// is of use.
type Writer struct {
	ctx     context.Context
	dst     io.WriterAt
	out     *fswriter.Stream
	tree    *fswriter.Tree
	root    Inode
	freed   [][2]uint32     // first block and count of what was replaced
	extents []extent        // of the file that is being written
	buffer  [inodeSize]byte // the record that is being made
	layout  layout
	content int64
	label   string
	now     time.Time
	seed    [16]byte
	uuid    [16]byte
	err     error // of New
	closed  bool
}

// New starts an image on dst. dst is written from several goroutines at once, at page
// aligned offsets, from page aligned memory, in whole blocks. Where there are more than
// 50,000 files, dst must be an io.ReaderAt too: names and inodes are set aside there,
// between MaxSize and DeviceSize. Close or Abort must be called.
func New(ctx context.Context, dst io.WriterAt, o Options) *Writer {
	w := &Writer{ctx: ctx, dst: dst, label: o.Label, now: o.Now}
	w.tree, w.err = fswriter.NewTree(dst, o.Heap, sizes)
	w.out = fswriter.NewStream(dst, w.tree.Memory, firstData*BlockSize, fswriter.MaxSize)
	_, _ = rand.Read(w.seed[:]) // never fails
	_, _ = rand.Read(w.uuid[:])
	w.uuid[6], w.uuid[8] = w.uuid[6]&0x0f|0x40, w.uuid[8]&0x3f|0x80 // RFC 9562, version 4
	if w.err == nil {
		w.err = w.begin0(o.Now)
	}
	return w
}

// begin0 makes the files that every file system has.
func (w *Writer) begin0(now time.Time) error {
	for range inoFirst - 1 {
		if _, err := w.tree.Alloc(0); err != nil { // the reserved ones stay empty
			return err
		}
	}
	w.root = inoRoot
	plain := Meta{Mode: 0o755, Atime: now, Mtime: now, Ctime: now}
	root := w.tree.Node(w.root)
	root.Kind, root.B = fswriter.ModeDir, inoRoot
	putInode(w.tree.Record(w.root, true), fswriter.ModeDir, plain, 0, 0, 0)
	plain.Mode = 0o700
	_, err := w.Mkdir(w.root, "lost+found", plain) // e2fsck wants it; the first inode that is free
	return err
}

// Root is the directory at the top. It belongs to 0:0, mode 0755.
func (w *Writer) Root() Inode { return w.root }

// ContentSize sums the sizes of the files: each once however many names it has, a
// symbolic link by the length of its target, directories not at all.
func (w *Writer) ContentSize() int64 { return w.content }

// Mkdir makes an empty directory.
func (w *Writer) Mkdir(parent Inode, name string, m Meta) (Inode, error) {
	if err := w.ready(name); err != nil {
		return 0, err
	}
	i, err := w.tree.AllocDir(parent)
	if err != nil {
		return 0, err
	}
	putInode(w.tree.Record(i, true), fswriter.ModeDir, m, 0, 0, 0)
	if err := w.setDirXattrs(i, m.Xattrs, m.Mode); err != nil {
		return 0, err
	}
	if err := w.tree.Attach(parent, name, i); err != nil {
		return 0, err
	}
	w.tree.Node(parent).Links++
	return i, w.tree.Pages.Err
}

// ready is how everything starts that makes a name.
func (w *Writer) ready(name string) error {
	if w.err != nil {
		return w.err
	}
	if err := fswriter.CheckName(name); err != nil {
		return err
	}
	return w.ctx.Err()
}

// SetMeta changes a file, as a second entry for it does. Extended attributes that it has
// and m has not, stay, but for a file's capabilities: the kernel takes them away when the
// owner is set. Of a symbolic link only owner and attributes change.
func (w *Writer) SetMeta(i Inode, m Meta) error {
	kind := w.tree.Node(i).Kind & fswriter.ModeType
	record := w.tree.Record(i, true)
	if kind == fswriter.ModeDir {
		putMeta(record, kind, m)
		if len(m.Xattrs) == 0 {
			return w.tree.Pages.Err
		}
		return errors.Join(w.mergeDirXattrs(i, m.Xattrs, m.Mode), w.tree.Pages.Err)
	}
	if kind == fswriter.ModeSymlink {
		putOwner(record, m)
	} else {
		putMeta(record, kind, m)
	}
	if len(m.Xattrs) == 0 && le.Uint32(record[inodeUsed:]) == 0 && le.Uint32(record[xattrPlace:]) == 0 {
		return w.tree.Pages.Err
	}
	return errors.Join(w.mergeXattrs(i, m.Xattrs, m.Mode), w.tree.Pages.Err)
}

// SetXattr sets one extended attribute of a directory.
func (w *Writer) SetXattr(d Inode, name, value string) error {
	mode := le.Uint16(w.tree.Record(d, false)) & 0o7777
	return errors.Join(w.mergeDirXattrs(d, map[string][]byte{name: []byte(value)}, mode), w.tree.Pages.Err)
}

// File writes a regular file of size bytes, read from content. Fewer bytes than that
// are io.ErrUnexpectedEOF. Runs of zeros become holes.
func (w *Writer) File(parent Inode, name string, m Meta, size int64, content io.Reader) (Inode, error) {
	if size < 0 || size > fswriter.MaxFile {
		return 0, &fswriter.LimitError{What: "bytes of one file", Limit: fswriter.MaxFile}
	}
	i, record, err := w.begin(parent, name, fswriter.ModeRegular, m)
	if err != nil {
		return 0, err
	}
	extents, err := w.data(size, content)
	if err != nil {
		return 0, err
	}
	if err := extentTree(w.out, record[blockArea:], extents); err != nil {
		return 0, err
	}
	return i, w.end(i, record, m, size, flagExtents)
}

// zeroPiece is the size of the holes that are found, and the most that is read at once.
const zeroPiece = 64 << 10

// maxPieces bounds in how many pieces a file may lie, which are kept in memory while it
// is written: 768 KiB. What is behind the last hole is written, zeros included.
const maxPieces = 1 << 16

// data appends a file's content and returns where it lies, until the next file.
func (w *Writer) data(size int64, content io.Reader) ([]extent, error) {
	extents := w.extents[:0]
	for done := int64(0); done < size; {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		piece := w.out.Room()
		piece = piece[:min(int64(len(piece)), size-done, zeroPiece)]
		if _, err := io.ReadFull(content, piece); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		blocks := uint32((len(piece) + BlockSize - 1) / BlockSize)
		logical := uint32(done / BlockSize)
		done += int64(len(piece))
		if len(extents) < maxPieces && fswriter.AllZero(piece) {
			continue
		}
		extents = appendExtent(extents, extent{logical, w.out.Block(), blocks})
		if err := w.out.Advance(len(piece)); err != nil {
			return nil, err
		}
	}
	w.extents = extents
	return extents, nil
}

// Symlink makes a symbolic link; nothing is asked of its target.
func (w *Writer) Symlink(parent Inode, name, target string, m Meta) (Inode, error) {
	if target == "" || len(target) > fswriter.MaxSymlink || strings.IndexByte(target, 0) >= 0 {
		return 0, fmt.Errorf("%w: target has %d bytes", fswriter.ErrSymlink, len(target))
	}
	m.Mode = fswriter.LinkMode
	i, record, err := w.begin(parent, name, fswriter.ModeSymlink, m)
	if err != nil {
		return 0, err
	}
	if len(target) < fastLink {
		copy(record[blockArea:], target)
		return i, w.end(i, record, m, int64(len(target)), 0)
	}
	// Kept beside, for the names that lead through it.
	at, err := w.tree.Text.Add(target)
	if err != nil {
		return 0, err
	}
	le.PutUint32(record[linkText:], at)
	extents := []extent{{0, w.out.Block(), 1}}
	if err := w.out.Append([]byte(target)); err != nil {
		return 0, err
	}
	if err := extentTree(w.out, record[blockArea:], extents); err != nil {
		return 0, err
	}
	return i, w.end(i, record, m, int64(len(target)), flagExtents)
}

// Special makes a pipe, a socket or a device node. major has 12 bits, minor 20.
func (w *Writer) Special(parent Inode, name string, kind fswriter.Kind, major, minor uint32, m Meta) (Inode, error) {
	i, record, err := w.begin(parent, name, uint16(kind), m)
	if err != nil {
		return 0, err
	}
	if kind != fswriter.FIFO && kind != fswriter.Socket {
		number, err := fswriter.Device(major, minor)
		if err != nil {
			return 0, err
		}
		at := blockArea
		if major > 0xff || minor > 0xff { // a small number is the same in the older place, and read there
			at += 4
		}
		le.PutUint32(record[at:], number)
		if kind == fswriter.CharDevice && number == 0 {
			w.tree.Node(i).Kind |= fswriter.Whiteout
		}
	}
	return i, w.end(i, record, m, 0, 0)
}

// Link gives a file another name. target is no directory.
func (w *Writer) Link(parent Inode, name string, target Inode) error {
	if err := w.ready(name); err != nil {
		return err
	}
	n := w.tree.Node(target)
	if n.Links >= maxLinks {
		return fswriter.ErrLinks
	}
	n.Links++
	return errors.Join(w.tree.Attach(parent, name, target), w.tree.Pages.Err)
}

// Child is the file of that name in a directory, 0 where there is none.
func (w *Writer) Child(dir Inode, name string) Inode { return w.tree.Child(dir, name) }

// Parent is the directory that a directory lies in; of the root the root.
func (w *Writer) Parent(dir Inode) Inode { return Inode(w.tree.Node(dir).B) }

// IsDir tells directories.
func (w *Writer) IsDir(i Inode) bool { return w.tree.Node(i).IsDir() }

// IsWhiteout tells overlayfs's mark for "not there": character device 0:0.
func (w *Writer) IsWhiteout(i Inode) bool { return w.tree.Node(i).Kind&fswriter.Whiteout != 0 }

// Target is where a symbolic link points to; false for every other file.
func (w *Writer) Target(i Inode) (string, bool) {
	if w.tree.Node(i).Kind&fswriter.ModeType != fswriter.ModeSymlink {
		return "", false
	}
	record := w.tree.Record(i, false)
	size := sizeOf(record)
	if size < fastLink {
		return string(record[blockArea : blockArea+size]), true
	}
	return string(w.tree.Text.Get(le.Uint32(record[linkText:]))), true
}
