package image

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"
)

// Options of an image.
type Options struct {
	Label string    // at most 16 bytes
	Now   time.Time // when it was made
}

// Writer builds one image. It is used from one goroutine. After an error only Abort
// is of use.
type Writer struct {
	ctx     context.Context
	dst     io.WriterAt
	out     *stream
	inodes  table
	root    *Inode
	freed   [][2]uint32 // first block and count of what was replaced
	gone    []uint32    // inodes that were replaced
	dirs    []uint32    // inodes of directories, once they are written
	layout  layout
	content int64
	label   string
	now     time.Time
	seed    [16]byte
	uuid    [16]byte
	closed  bool
}

// New starts an image on dst. dst is written from several goroutines at once, at page
// aligned offsets, from page aligned memory, in whole blocks. Close or Abort must be
// called.
func New(ctx context.Context, dst io.WriterAt, o Options) *Writer {
	w := &Writer{ctx: ctx, dst: dst, label: o.Label, now: o.Now, out: newStream(dst, firstData*BlockSize, MaxSize)}
	_, _ = rand.Read(w.seed[:]) // never fails
	_, _ = rand.Read(w.uuid[:])
	w.uuid[6], w.uuid[8] = w.uuid[6]&0x0f|0x40, w.uuid[8]&0x3f|0x80 // RFC 9562, version 4
	for range inoFirst - 1 {
		w.inodes.alloc() // the reserved ones stay empty
	}
	plain := Meta{Mode: 0o755, Atime: o.Now, Mtime: o.Now, Ctime: o.Now}
	w.root = &Inode{number: inoRoot, mode: modeDir, dir: &dir{meta: plain, children: map[string]*Inode{}}}
	w.root.dir.parent = w.root
	plain.Mode = 0o700
	_, _ = w.Mkdir(w.root, "lost+found", plain) // e2fsck wants it; the first inode that is free
	return w
}

// Root is the directory at the top. It belongs to 0:0, mode 0755.
func (w *Writer) Root() *Inode { return w.root }

// ContentSize sums the sizes of the files: each once however many names it has, a
// symbolic link by the length of its target, directories not at all.
func (w *Writer) ContentSize() int64 { return w.content }

// Mkdir makes an empty directory.
func (w *Writer) Mkdir(parent *Inode, name string, m Meta) (*Inode, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	i := &Inode{number: w.inodes.alloc(), mode: modeDir, dir: &dir{parent: parent, meta: m, children: map[string]*Inode{}}}
	w.attach(parent, name, i)
	parent.dir.subdirs++
	return i, nil
}

// SetMeta changes a directory. Extended attributes that it has and m has not, stay.
func (w *Writer) SetMeta(d *Inode, m Meta) {
	for name, value := range d.dir.meta.Xattrs {
		if _, ok := m.Xattrs[name]; !ok {
			if m.Xattrs == nil {
				m.Xattrs = map[string][]byte{}
			}
			m.Xattrs[name] = value
		}
	}
	d.dir.meta = m
}

// SetXattr sets one extended attribute of a directory.
func (w *Writer) SetXattr(d *Inode, name, value string) {
	if d.dir.meta.Xattrs == nil {
		d.dir.meta.Xattrs = map[string][]byte{}
	}
	d.dir.meta.Xattrs[name] = []byte(value)
}

// File writes a regular file of size bytes, read from content. Fewer bytes than that
// are io.ErrUnexpectedEOF. Runs of zeros become holes.
func (w *Writer) File(parent *Inode, name string, m Meta, size int64, content io.Reader) (*Inode, error) {
	i, record, err := w.begin(parent, name, modeRegular, m)
	if err != nil {
		return nil, err
	}
	extents, err := w.data(size, content)
	if err != nil {
		return nil, err
	}
	if err := extentTree(w.out, record[0x28:], extents); err != nil {
		return nil, err
	}
	w.end(i, record, m, size, flagExtents)
	return i, nil
}

// zeroes is compared against, to find holes; zeroPiece is also the most that is read
// at once, and so the size of the holes that are found.
const zeroPiece = 64 << 10

// data appends a file's content and returns where it lies.
func (w *Writer) data(size int64, content io.Reader) ([]extent, error) {
	var extents []extent
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
		if allZero(piece) {
			continue
		}
		extents = appendExtent(extents, extent{logical, w.out.block(), blocks})
		if err := w.out.advance(len(piece)); err != nil {
			return nil, err
		}
	}
	return extents, nil
}

// Symlink makes a symbolic link; nothing is asked of its target.
func (w *Writer) Symlink(parent *Inode, name, target string, m Meta) (*Inode, error) {
	if target == "" || len(target) > maxSymlink || strings.IndexByte(target, 0) >= 0 {
		return nil, fmt.Errorf("%w: target of %d bytes", ErrSymlink, len(target))
	}
	m.Mode = 0o777
	i, record, err := w.begin(parent, name, modeSymlink, m)
	if err != nil {
		return nil, err
	}
	if len(target) < fastLink {
		copy(record[0x28:], target)
		w.end(i, record, m, int64(len(target)), 0)
		return i, nil
	}
	extents := []extent{{0, w.out.block(), 1}}
	if err := w.out.append([]byte(target)); err != nil {
		return nil, err
	}
	if err := extentTree(w.out, record[0x28:], extents); err != nil {
		return nil, err
	}
	w.end(i, record, m, int64(len(target)), flagExtents)
	return i, nil
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
func (w *Writer) Special(parent *Inode, name string, kind Kind, major, minor uint32, m Meta) (*Inode, error) {
	i, record, err := w.begin(parent, name, uint16(kind), m)
	if err != nil {
		return nil, err
	}
	if kind != FIFO {
		switch {
		case major>>12 != 0 || minor>>20 != 0:
			return nil, fmt.Errorf("%w: device %d:%d", ErrName, major, minor)
		case major < 256 && minor < 256:
			le.PutUint32(record[0x28:], major<<8|minor)
		default:
			le.PutUint32(record[0x2c:], minor&0xff|major<<8|minor&^0xff<<12)
		}
		i.whiteout = kind == CharDevice && major == 0 && minor == 0
	}
	w.end(i, record, m, 0, 0)
	return i, nil
}

// Link gives a file another name. target is no directory.
func (w *Writer) Link(parent *Inode, name string, target *Inode) error {
	if err := checkName(name); err != nil {
		return err
	}
	if target.links >= maxLinks {
		return ErrLinks
	}
	w.attach(parent, name, target)
	return nil
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
