package erofs

import (
	"io"

	"layervault/crypt/fswriter"
)

// piece is the least size of a hole within a file, and the most that is read at once.
const piece = 64 << 10

// maxChunks bounds the array that says where the chunks of a file with holes lie: 1 MiB,
// in memory and in the image. Files of more than 16 GiB have larger chunks, and so larger
// holes only.
const maxChunks = 1 << 18

// File writes a regular file of size bytes, read from content. Fewer bytes than that
// are io.ErrUnexpectedEOF. Runs of zeros become holes.
func (w *Writer) File(parent Inode, name string, m Meta, size int64, content io.Reader) (Inode, error) {
	if size < 0 || size > fswriter.MaxFile {
		return 0, &fswriter.LimitError{What: "bytes of one file", Limit: fswriter.MaxFile}
	}
	i, attrs, err := w.begin(parent, name, fswriter.ModeRegular, m)
	if err != nil {
		return 0, err
	}
	if head := inodeSize + len(attrs); size > 0 && size < blockSize && head+int(size) <= blockSize {
		err = w.smallFile(i, attrs, int(size), content)
	} else {
		err = w.largeFile(i, attrs, size, content)
	}
	if err != nil {
		return 0, err
	}
	return i, w.end(i)
}

// smallFile reads the content to its place behind the inode.
func (w *Writer) smallFile(i Inode, attrs []byte, size int, content io.Reader) error {
	b, err := w.take(i, inodeSize+len(attrs)+size)
	if err != nil {
		return err
	}
	copy(b[inodeSize:], attrs)
	if err := readFull(content, b[inodeSize+len(attrs):][:size]); err != nil {
		return err
	}
	putLayout(w.record[:], layoutInline, int64(size), 0, len(attrs))
	return nil
}

func (w *Writer) largeFile(i Inode, attrs []byte, size int64, content io.Reader) error {
	d := fileData{w: w, size: size, chunk: piece, start: w.out.Block(), inline: inodeSize+len(attrs)+int(size%blockSize) <= blockSize}
	for size > maxChunks*d.chunk {
		d.chunk *= 2
	}
	for d.done < size {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := d.next(content); err != nil {
			return err
		}
	}
	switch {
	case d.chunks != nil:
		w.chunked = true
		putLayout(w.record[:], layoutChunks, size, chunkFormat(d.chunk), len(attrs))
		index := make([]byte, 0, 4*len(d.chunks))
		for _, block := range d.chunks {
			index = le.AppendUint32(index, block)
		}
		return w.place(i, attrs, index)
	case len(d.tail) > 0:
		putLayout(w.record[:], layoutInline, size, d.start, len(attrs))
	case size == 0:
		putLayout(w.record[:], layoutPlain, 0, 0, len(attrs))
	default:
		putLayout(w.record[:], layoutPlain, size, d.start, len(attrs))
	}
	return w.place(i, attrs, d.tail)
}

// fileData is the content of a file on its way. It is cut into chunks, of which each is
// a hole or in one piece.
type fileData struct {
	w       *Writer
	size    int64
	done    int64
	chunk   int64
	start   uint32   // first block
	chunks  []uint32 // first block of each, once there is a hole
	pending int64    // zeros at the beginning of the chunk, not written
	written bool     // something of the chunk is
	inline  bool     // the tail fits behind the inode
	tail    []byte   // what goes there
}

// next reads and writes the next piece.
func (d *fileData) next(content io.Reader) error {
	out := d.w.out
	if len(out.Room()) < piece { // a piece is to be seen before it is written
		if err := out.Flush(); err != nil {
			return err
		}
	}
	b := out.Room()[:min(piece, d.size-d.done)]
	if err := readFull(content, b); err != nil {
		return err
	}
	at := d.done / d.chunk
	d.done += int64(len(b))
	last := d.done == d.size
	if !d.written && (len(b) >= blockSize || d.chunks != nil || d.pending > 0) && fswriter.AllZero(b) {
		d.pending += int64(len(b))
		if last || d.done%d.chunk == 0 {
			d.hole(at)
		}
		return nil
	}
	if !d.written && d.chunks != nil {
		d.chunks[at] = out.Block()
	}
	if d.pending > 0 {
		var err error
		if b, err = d.zerosBefore(b); err != nil {
			return err
		}
	}
	d.written = d.done%d.chunk != 0
	n := len(b)
	if last && d.inline && d.chunks == nil {
		n -= int(d.size % blockSize)
		d.tail = append(d.w.spare[:0], b[n:]...)
		d.w.spare = d.tail
	}
	return out.Advance(n)
}

// hole notes that the chunk is one.
func (d *fileData) hole(at int64) {
	if d.chunks == nil {
		d.chunks = make([]uint32, (d.size+d.chunk-1)/d.chunk)
		for i := range at {
			d.chunks[i] = d.start + uint32(i*(d.chunk/blockSize))
		}
	}
	d.chunks[at] = chunkNull
	d.pending = 0
}

// zerosBefore writes the zeros that the chunk begins with, and moves b behind them.
func (d *fileData) zerosBefore(b []byte) ([]byte, error) {
	out := d.w.out
	held := append(d.w.spare[:0], b...)
	d.w.spare = held
	if err := out.AppendZeros(int(d.pending)); err != nil {
		return nil, err
	}
	d.pending = 0
	if len(out.Room()) < piece {
		if err := out.Flush(); err != nil {
			return nil, err
		}
	}
	b = out.Room()[:len(held)]
	copy(b, held)
	return b, nil
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
