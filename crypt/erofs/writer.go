package erofs

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

// Inode is a file of the image; 0 is none.
type Inode = fswriter.Inode

// Meta is what every file has.
type Meta = fswriter.Meta

// MaxMoved bounds how many bytes are written anew since a later entry gives a file other
// attributes, which leaves the old place unused: no layer does that but for a few files.
const MaxMoved = 1 << 30

// sizes: records are a quarter of ext4's, so half of the pages do. While an image of a
// million files is written the stream's 8 MiB are in use, too, and the garbage collector
// lets the heap grow to twice of what is alive. The number of names is the bound that is
// met first, as in ext4.
var sizes = fswriter.Sizes{Record: inodeSize, Reserved: 2, Frames: 112, Heap: 16 << 20}

// root is the first inode.
const root Inode = 1

// Writer builds one image. It is used from one goroutine. After an error only Abort
// is of use.
type Writer struct {
	ctx     context.Context
	dst     io.WriterAt
	out     *fswriter.Stream
	tree    *fswriter.Tree
	open    []*inodeBlock // being filled
	spare   []byte        // a piece of a file
	shared  sharedXattrs
	record  [inodeSize]byte // the one that is being made
	chunked bool
	content int64
	moved   int64
	live    uint64 // directories and files with a name
	label   string
	now     time.Time
	uuid    [16]byte
	super   superblock
	root0   []byte // block 0
	err     error  // of New
	closed  bool
}

// New starts an image on dst. dst is written from several goroutines at once, at page
// aligned offsets, from page aligned memory, in whole blocks. Where there are more than
// 100,000 files, or hard links, dst must be an io.ReaderAt too. Close or Abort must be
// called.
func New(ctx context.Context, dst io.WriterAt, o fswriter.Options) *Writer {
	w := &Writer{ctx: ctx, dst: dst, label: o.Label, now: o.Now}
	w.tree, w.err = fswriter.NewTree(dst, o.Heap, sizes)
	w.out = fswriter.NewStream(dst, w.tree.Memory, blockSize, fswriter.MaxSize)
	_, _ = rand.Read(w.uuid[:])                                     // never fails
	w.uuid[6], w.uuid[8] = w.uuid[6]&0x0f|0x40, w.uuid[8]&0x3f|0x80 // RFC 9562, version 4
	if w.err != nil {
		return w
	}
	if _, w.err = w.tree.Alloc(fswriter.ModeDir); w.err == nil {
		w.tree.Node(root).B = uint32(root)
		putMeta(w.tree.Record(root, true), fswriter.ModeDir, Meta{Mode: 0o755, Mtime: o.Now})
	}
	return w
}

// Root is the directory at the top. It belongs to 0:0, mode 0755.
func (w *Writer) Root() Inode { return root }

// ContentSize sums the sizes of the files: each once however many names it has, a
// symbolic link by the length of its target, directories not at all.
func (w *Writer) ContentSize() int64 { return w.content }

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

// Mkdir makes an empty directory.
func (w *Writer) Mkdir(parent Inode, name string, m Meta) (Inode, error) {
	if err := w.ready(name); err != nil {
		return 0, err
	}
	i, err := w.tree.AllocDir(parent)
	if err != nil {
		return 0, err
	}
	putMeta(w.tree.Record(i, true), fswriter.ModeDir, m)
	if len(m.Xattrs) > 0 {
		if err := w.mergeDirXattrs(i, m.Xattrs, m.Mode); err != nil {
			return 0, err
		}
	}
	if err := w.tree.Attach(parent, name, i); err != nil {
		return 0, err
	}
	w.tree.Node(parent).Links++
	return i, w.tree.Pages.Err
}

// begin makes an inode that is no directory, under a name that is free. It returns its
// attributes as they are written.
func (w *Writer) begin(parent Inode, name string, kind uint16, m Meta) (Inode, []byte, error) {
	if err := w.ready(name); err != nil {
		return 0, nil, err
	}
	i, err := w.tree.Alloc(kind)
	if err != nil {
		return 0, nil, err
	}
	w.tree.Node(i).Links = 1
	clear(w.record[:])
	putMeta(w.record[:], kind, m)
	le.PutUint32(w.record[atIno:], uint32(i))
	var attrs []byte
	if len(m.Xattrs) > 0 {
		list, err := listXattrs(m.Xattrs, kind, m.Mode)
		if err != nil {
			return 0, nil, err
		}
		attrs = w.encodeXattrs(list)
	}
	return i, attrs, w.tree.Attach(parent, name, i)
}

// end keeps the record.
func (w *Writer) end(i Inode) error {
	w.content += sizeOf(w.record[:])
	copy(w.tree.Record(i, true), w.record[:])
	return w.tree.Pages.Err
}

// Symlink makes a symbolic link. Its mode is always 0777.
func (w *Writer) Symlink(parent Inode, name, target string, m Meta) (Inode, error) {
	if target == "" || len(target) > fswriter.MaxSymlink || strings.IndexByte(target, 0) >= 0 {
		return 0, fmt.Errorf("%w: target has %d bytes", fswriter.ErrSymlink, len(target))
	}
	m.Mode = fswriter.LinkMode
	i, attrs, err := w.begin(parent, name, fswriter.ModeSymlink, m)
	if err != nil {
		return 0, err
	}
	at, err := w.tree.Text.Add(target) // for the names that lead through it
	if err != nil {
		return 0, err
	}
	le.PutUint32(w.record[atLink:], at)
	if err := w.placeSmall(i, attrs, []byte(target)); err != nil {
		return 0, err
	}
	return i, w.end(i)
}

// placeSmall places an inode with less than a block of content: behind it where there is
// room, else in a block.
func (w *Writer) placeSmall(i Inode, attrs, content []byte) error {
	if inodeSize+len(attrs)+len(content) <= blockSize {
		putLayout(w.record[:], layoutInline, int64(len(content)), 0, len(attrs))
		return w.place(i, attrs, content)
	}
	putLayout(w.record[:], layoutPlain, int64(len(content)), w.out.Block(), len(attrs))
	if err := w.out.Append(content); err != nil {
		return err
	}
	return w.place(i, attrs, nil)
}

// Special makes a pipe, a socket or a device node. major has 12 bits, minor 20.
func (w *Writer) Special(parent Inode, name string, kind fswriter.Kind, major, minor uint32, m Meta) (Inode, error) {
	i, attrs, err := w.begin(parent, name, uint16(kind), m)
	if err != nil {
		return 0, err
	}
	number := uint32(0)
	if kind != fswriter.FIFO && kind != fswriter.Socket {
		if number, err = fswriter.Device(major, minor); err != nil {
			return 0, err
		}
		if kind == fswriter.CharDevice && number == 0 {
			w.tree.Node(i).Kind |= fswriter.Whiteout
		}
	}
	putLayout(w.record[:], layoutPlain, 0, number, len(attrs))
	if err := w.place(i, attrs, nil); err != nil {
		return 0, err
	}
	return i, w.end(i)
}

// Link gives a file another name. target is no directory.
func (w *Writer) Link(parent Inode, name string, target Inode) error {
	if err := w.ready(name); err != nil {
		return err
	}
	w.tree.Node(target).Links++
	return errors.Join(w.tree.Attach(parent, name, target), w.tree.Pages.Err)
}

// Unlink takes a name away, and with it all that is below a directory.
func (w *Writer) Unlink(parent Inode, name string) error {
	return w.tree.Unlink(w.ctx, parent, name, func(i Inode) error {
		w.content -= sizeOf(w.tree.Record(i, false))
		return nil
	})
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
	return string(w.tree.Text.Get(le.Uint32(w.tree.Record(i, false)[atLink:]))), true
}
