package erofs

import (
	"fmt"
	"io"

	"layervault/crypt/fswriter"
)

// Close writes all that is known only now and returns the size of the file system in
// bytes: dst may be cut off there. It does not sync.
func (w *Writer) Close() (size int64, err error) {
	err = w.finish()
	if closeErr := w.stop(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = w.ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	// All else is on dst now. The superblock makes it a file system.
	w.super.encode(w.root0)
	if _, err := w.dst.WriteAt(w.root0, 0); err != nil {
		return 0, err
	}
	return int64(w.super.blocks) * blockSize, nil
}

// Abort ends the writer's goroutines; what it wrote is no file system.
func (w *Writer) Abort() { _ = w.stop() }

func (w *Writer) stop() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.out.Close()
	w.tree.Memory.Free()
	w.err = fswriter.ErrClosed
	return err
}

func (w *Writer) finish() error {
	if w.err != nil {
		return w.err
	}
	for _, b := range w.open {
		if err := w.writeInodes(b); err != nil {
			return err
		}
	}
	if err := w.patch(); err != nil {
		return err
	}
	if err := w.writeDirs(); err != nil {
		return err
	}
	w.super = superblock{
		inodes: w.live, chunked: w.chunked, created: w.now, uuid: w.uuid, label: w.label,
		shared: w.out.Block(),
	}
	if err := w.out.Append(w.shared.area); err != nil {
		return err
	}
	w.super.blocks = w.out.Block()
	return w.tree.Pages.Err
}

// patch corrects inodes that changed after they were written: links and owners, mostly.
// They lie nearly in the order in which they came.
func (w *Writer) patch() error {
	p := patcher{w: w, at: -1, end: int64(w.out.Block()) * blockSize}
	for i := root; int(i) <= w.tree.Nodes.Len(); i++ {
		n := w.tree.Node(i)
		if n.Kind&fswriter.Gone != 0 {
			continue
		}
		w.live++
		if n.IsDir() || n.Kind&fswriter.Changed == 0 && n.B == n.Links {
			continue
		}
		b, err := p.get(nid(n) * slot)
		if err != nil {
			return err
		}
		w.putInode(b, i, n)
	}
	return p.flush()
}

// patchWindow is how many bytes are read and written at once to correct inodes in them.
const patchWindow = 64 << 10

// patcher changes what is on dst.
type patcher struct {
	w   *Writer
	r   io.ReaderAt
	b   []byte
	at  int64 // where b lies, -1 for nowhere
	end int64 // of what is written
}

func (p *patcher) get(at int64) ([]byte, error) {
	if p.at >= 0 && at >= p.at && at < p.at+int64(len(p.b)) {
		return p.b[at-p.at:], nil
	}
	if err := p.flush(); err != nil {
		return nil, err
	}
	if err := p.w.ctx.Err(); err != nil {
		return nil, err
	}
	if p.r == nil {
		if err := p.open(); err != nil {
			return nil, err
		}
	}
	p.at = at &^ (patchWindow - 1)
	p.b = p.b[:min(patchWindow, p.end-p.at)]
	if _, err := p.r.ReadAt(p.b, p.at); err != nil {
		return nil, fmt.Errorf("read file system back: %w", err)
	}
	return p.b[at-p.at:], nil
}

func (p *patcher) open() error {
	r, ok := p.w.dst.(io.ReaderAt)
	if !ok {
		return fswriter.ErrNotReadable
	}
	p.r, p.b = r, fswriter.AlignedBytes(patchWindow)
	return p.w.out.Settle()
}

func (p *patcher) flush() error {
	if p.at < 0 {
		return nil
	}
	if _, err := p.w.dst.WriteAt(p.b, p.at); err != nil {
		return fmt.Errorf("write file system: %w", err)
	}
	return nil
}

// dirLayout says where directories will lie. All inodes come first, so that every number
// is known when the content is made.
type dirLayout struct {
	inodes int64 // where they begin, in bytes
	at     int64 // where the next goes, counted from there
	blocks int64 // whole blocks of the directories so far
}

// writeDirs writes all directories, in the order in which they came.
func (w *Writer) writeDirs() error {
	l := dirLayout{inodes: int64(w.out.Block()) * blockSize}
	if err := w.eachDir(func(i Inode) error { return w.layoutDir(i, &l) }); err != nil {
		return err
	}
	first := uint32((l.inodes + l.at + blockSize - 1) / blockSize)
	p := inodePacker{out: w.out}
	w.root0 = fswriter.AlignedBytes(blockSize)
	err := w.eachDir(func(i Inode) error {
		if i == root {
			return w.putDir(i, first, w.root0[rootOffset:])
		}
		b, err := p.room(w.dirSize(i))
		if err != nil {
			return err
		}
		return w.putDir(i, first, b)
	})
	if err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return err
	}
	return w.eachDir(w.putDirBlocks)
}

func (w *Writer) eachDir(do func(Inode) error) error {
	for i := root; int(i) <= w.tree.Nodes.Len(); i++ {
		if n := w.tree.Node(i); !n.IsDir() || n.Kind&fswriter.Gone != 0 {
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := do(i); err != nil {
			return err
		}
	}
	return w.tree.Pages.Err
}

// layoutDir sorts a directory and finds its place. What the node kept is in the record
// from here on, and the node has the inode's number.
func (w *Writer) layoutDir(i Inode, l *dirLayout) error {
	n := w.tree.Node(i)
	if err := w.sortDir(n); err != nil {
		return err
	}
	full, tail, err := w.measure(i)
	if err != nil {
		return err
	}
	attrs := w.encodeXattrs(w.dirXattrs(i))
	if len(attrs) > 0 {
		if err := w.keep(i, string(attrs)); err != nil {
			return err
		}
	}
	room, head := blockSize, inodeSize+len(attrs)
	if i == root {
		room -= rootOffset
		if head > room {
			return fmt.Errorf("%w: %d bytes of the root", fswriter.ErrXattr, len(attrs))
		}
	}
	record := w.tree.Record(i, true)
	layout, size := uint16(layoutInline), full*blockSize+int64(tail)
	if tail == 0 || head+tail > room {
		layout = layoutPlain
	}
	putLayout(record, layout, size, uint32(l.blocks), len(attrs))
	le.PutUint32(record[atIno:], uint32(i))
	le.PutUint32(record[atNlink:], n.Links+2) // its name and its own "."; every child's ".." is counted
	l.blocks += full
	if tail > 0 && layout == layoutPlain {
		l.blocks++
	}
	at := int64(rootOffset)
	if i != root {
		at = l.inodes + l.place(w.dirSize(i))
	}
	n.Links, n.Depth = uint32(at/slot), uint16(at/slot>>32)
	return nil
}

// dirSize is what a directory takes among the inodes.
func (w *Writer) dirSize(i Inode) int {
	record := w.tree.Record(i, false)
	size := inodeSize + xattrSize(record)
	if layoutOf(record) == layoutInline {
		size += int(sizeOf(record) % blockSize)
	}
	return size
}

// place finds room as inodePacker does.
func (l *dirLayout) place(size int) int64 {
	at := nextPlace(l.at, size)
	l.at = at + int64(size+slot-1)&^(slot-1)
	return at
}

// nextPlace is where an inode can lie, at a place or behind: within a block, or from the
// beginning of one where it needs more.
func nextPlace(at int64, size int) int64 {
	if used := at % blockSize; used > 0 && used+int64(size) > blockSize {
		at += blockSize - used
	}
	return at
}

// inodePacker appends inodes of directories.
type inodePacker struct {
	out *fswriter.Stream
	b   []byte // whole blocks, being filled
	at  int64
}

// room is for the next inode, until the one after that.
func (p *inodePacker) room(size int) ([]byte, error) {
	at := nextPlace(p.at, size)
	if at%blockSize == 0 {
		if err := p.finish(); err != nil {
			return nil, err
		}
		p.b = append(p.b[:0], make([]byte, (size+blockSize-1)&^(blockSize-1))...)
	}
	p.at = at + int64(size+slot-1)&^(slot-1)
	end := len(p.b) - int(-p.at&(blockSize-1))
	return p.b[end-(size+slot-1)&^(slot-1):], nil
}

func (p *inodePacker) finish() error {
	err := p.out.Append(p.b)
	p.b = p.b[:0]
	return err
}

// putDir writes a directory's inode, attributes and tail. first is where whole blocks of
// directories begin.
func (w *Writer) putDir(i Inode, first uint32, b []byte) error {
	record := w.tree.Record(i, true)
	le.PutUint32(record[atUnion:], le.Uint32(record[atUnion:])+first)
	copy(b, record[:coreSize])
	size, layout := sizeOf(record), layoutOf(record)
	b = b[inodeSize:]
	if n := xattrSize(record); n > 0 {
		copy(b, w.tree.Text.Get(le.Uint32(record[atText:])))
		b = b[n:]
	}
	if layout != layoutInline {
		return nil
	}
	left := size
	return w.pack(i, func(block []byte) error {
		if left < blockSize {
			copy(b, block)
		}
		left -= blockSize
		return nil
	})
}

// putDirBlocks writes a directory's whole blocks.
func (w *Writer) putDirBlocks(i Inode) error {
	record := w.tree.Record(i, false)
	left := sizeOf(record)
	inline := layoutOf(record) == layoutInline
	if inline && left < blockSize {
		return nil
	}
	return w.pack(i, func(block []byte) error {
		if left -= blockSize; left < 0 && inline {
			return nil
		}
		return w.out.Append(block)
	})
}
