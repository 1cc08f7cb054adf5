package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Options of an image.
type Options struct {
	Label string    // at most 16 bytes
	Now   time.Time // when it was made
	Heap  *Heap     // shared by images that are made at the same time; may be nil
}

// Writer builds one image. It is used from one goroutine. After an error only Abort
// is of use.
type Writer struct {
	ctx     context.Context
	dst     io.WriterAt
	out     *stream
	memory  *arena
	pages   *pager
	tree    tree
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
	memory := newArena(o.Heap)
	w := &Writer{
		ctx: ctx, dst: dst, label: o.Label, now: o.Now, memory: memory,
		pages: &pager{dst: dst, memory: memory}, out: newStream(dst, memory, firstData*BlockSize, MaxSize),
	}
	memory.outgrown = w.pages.leaveHeap
	_, _ = rand.Read(w.seed[:]) // never fails
	_, _ = rand.Read(w.uuid[:])
	w.uuid[6], w.uuid[8] = w.uuid[6]&0x0f|0x40, w.uuid[8]&0x3f|0x80 // RFC 9562, version 4
	w.err = w.begin0(o.Now)
	return w
}

// begin0 makes the files that every file system has.
func (w *Writer) begin0(now time.Time) error {
	if err := w.tree.init(w.memory, w.pages); err != nil {
		return err
	}
	for range inoFirst - 1 {
		if _, err := w.tree.alloc(0); err != nil { // the reserved ones stay empty
			return err
		}
	}
	w.root = inoRoot
	plain := Meta{Mode: 0o755, Atime: now, Mtime: now, Ctime: now}
	root := w.tree.node(w.root)
	root.kind, root.b = modeDir, inoRoot
	putInode(w.record(w.root, true), modeDir, plain, 0, 0, 0)
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
	depth := w.tree.node(parent).depth
	if depth >= MaxDepth {
		return 0, &LimitError{"levels of directories", MaxDepth}
	}
	i, err := w.tree.alloc(modeDir)
	if err != nil {
		return 0, err
	}
	n := w.tree.node(i)
	n.b, n.depth = uint32(parent), depth+1
	putInode(w.record(i, true), modeDir, m, 0, 0, 0)
	if err := w.setDirXattrs(i, m.Xattrs, m.Mode); err != nil {
		return 0, err
	}
	if err := w.tree.attach(parent, name, i); err != nil {
		return 0, err
	}
	w.tree.node(parent).links++
	return i, w.pages.err
}

// ready is how everything starts that makes a name.
func (w *Writer) ready(name string) error {
	if w.err != nil {
		return w.err
	}
	if err := checkName(name); err != nil {
		return err
	}
	return w.ctx.Err()
}

// SetMeta changes a file, as a second entry for it does. Extended attributes that it has
// and m has not, stay, but for a file's capabilities: the kernel takes them away when the
// owner is set. Of a symbolic link only owner and attributes change.
func (w *Writer) SetMeta(i Inode, m Meta) error {
	kind := w.tree.node(i).kind & modeType
	record := w.record(i, true)
	if kind == modeDir {
		putMeta(record, kind, m)
		if len(m.Xattrs) == 0 {
			return w.pages.err
		}
		return errors.Join(w.mergeDirXattrs(i, m.Xattrs, m.Mode), w.pages.err)
	}
	if kind == modeSymlink {
		putOwner(record, m)
	} else {
		putMeta(record, kind, m)
	}
	if len(m.Xattrs) == 0 && le.Uint32(record[inodeUsed:]) == 0 && le.Uint32(record[xattrPlace:]) == 0 {
		return w.pages.err
	}
	return errors.Join(w.mergeXattrs(i, m.Xattrs, m.Mode), w.pages.err)
}

// SetXattr sets one extended attribute of a directory.
func (w *Writer) SetXattr(d Inode, name, value string) error {
	mode := le.Uint16(w.record(d, false)) & 0o7777
	return errors.Join(w.mergeDirXattrs(d, map[string][]byte{name: []byte(value)}, mode), w.pages.err)
}

// File writes a regular file of size bytes, read from content. Fewer bytes than that
// are io.ErrUnexpectedEOF. Runs of zeros become holes.
func (w *Writer) File(parent Inode, name string, m Meta, size int64, content io.Reader) (Inode, error) {
	if size < 0 || size > MaxFile {
		return 0, &LimitError{"bytes of one file", MaxFile}
	}
	i, record, err := w.begin(parent, name, modeRegular, m)
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
		piece := w.out.room()
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
		if len(extents) < maxPieces && allZero(piece) {
			continue
		}
		extents = appendExtent(extents, extent{logical, w.out.block(), blocks})
		if err := w.out.advance(len(piece)); err != nil {
			return nil, err
		}
	}
	w.extents = extents
	return extents, nil
}

// Symlink makes a symbolic link; nothing is asked of its target.
func (w *Writer) Symlink(parent Inode, name, target string, m Meta) (Inode, error) {
	if target == "" || len(target) > maxSymlink || strings.IndexByte(target, 0) >= 0 {
		return 0, fmt.Errorf("%w: target has %d bytes", ErrSymlink, len(target))
	}
	m.Mode = linkMode
	i, record, err := w.begin(parent, name, modeSymlink, m)
	if err != nil {
		return 0, err
	}
	if len(target) < fastLink {
		copy(record[blockArea:], target)
		return i, w.end(i, record, m, int64(len(target)), 0)
	}
	// Kept beside, for the names that lead through it.
	at, err := w.tree.text.add(target)
	if err != nil {
		return 0, err
	}
	le.PutUint32(record[linkText:], at)
	extents := []extent{{0, w.out.block(), 1}}
	if err := w.out.append([]byte(target)); err != nil {
		return 0, err
	}
	if err := extentTree(w.out, record[blockArea:], extents); err != nil {
		return 0, err
	}
	return i, w.end(i, record, m, int64(len(target)), flagExtents)
}

// Kind of a special file.
type Kind uint16

// The special files.
const (
	FIFO        Kind = modeFIFO
	CharDevice  Kind = modeChar
	BlockDevice Kind = modeBlock
)

// Special makes a pipe or a device node. major has 12 bits, minor 20.
func (w *Writer) Special(parent Inode, name string, kind Kind, major, minor uint32, m Meta) (Inode, error) {
	i, record, err := w.begin(parent, name, uint16(kind), m)
	if err != nil {
		return 0, err
	}
	if kind != FIFO {
		switch {
		case major>>12 != 0 || minor>>20 != 0:
			return 0, fmt.Errorf("%w: device %d:%d", ErrName, major, minor)
		case major < 256 && minor < 256:
			le.PutUint32(record[blockArea:], major<<8|minor)
		default:
			le.PutUint32(record[blockArea+4:], minor&0xff|major<<8|minor&^0xff<<12)
		}
		if kind == CharDevice && major == 0 && minor == 0 {
			w.tree.node(i).kind |= isWhiteout
		}
	}
	return i, w.end(i, record, m, 0, 0)
}

// Link gives a file another name. target is no directory.
func (w *Writer) Link(parent Inode, name string, target Inode) error {
	if err := w.ready(name); err != nil {
		return err
	}
	n := w.tree.node(target)
	if n.links >= maxLinks {
		return ErrLinks
	}
	n.links++
	return errors.Join(w.tree.attach(parent, name, target), w.pages.err)
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %.300q", ErrName, name)
	}
	return nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if le.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
