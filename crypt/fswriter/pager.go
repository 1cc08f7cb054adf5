package fswriter

import (
	"fmt"
	"io"
	"runtime/debug"
)

// What is known of a file before the image is complete (its inode record, its name) lies in pages.
// Some of them are kept in memory, all of them for 40,000 files; what is more is written to the upper
// end of the destination, past the largest file system, and read back when needed. The destination
// is the encrypted device: nothing goes elsewhere. Cutting the image to its size cuts them off.
const pageSize = 64 << 10

// scratchSize is how much of the destination is set aside for pages: MaxFiles inodes of
// at most 256 bytes, and MaxMetadata.
const scratchSize = 1 << 30

// frame is a page in memory.
type frame struct {
	data  []byte
	page  int
	dirty bool
	used  bool // since the clock passed
	fresh bool // all zeros: no page was in it yet
}

// Pager keeps pages. After an error it goes on with a page that is thrown away, so that
// only those who finish something need to ask for it.
type Pager struct {
	dst    io.WriterAt
	memory *Arena
	where  []int32 // by page: number of its frame from 1 on, 0 for none
	saved  []bool  // by page: is at the destination
	frames []frame
	hand   int
	waste  []byte
	most   int   // frames
	table  int   // how many pages the inodes take; text follows
	Err    error // the first
}

func (p *Pager) fail(err error) []byte {
	if p.Err == nil {
		p.Err = err
	}
	if p.waste == nil {
		p.waste = make([]byte, pageSize)
	}
	return p.waste
}

// Page is one page in memory. It stays there until the next call; it is written to only until
// memory is asked for, since the pages then may leave the heap.
func (p *Pager) Page(n int, write bool) []byte {
	for n >= len(p.where) {
		p.where, p.saved = append(p.where, 0), append(p.saved, false)
	}
	if p.where[n] == 0 {
		if err := p.load(n); err != nil {
			return p.fail(err)
		}
	}
	f := &p.frames[p.where[n]-1]
	f.used = true
	f.dirty = f.dirty || write
	return f.data
}

func (p *Pager) load(n int) error {
	at, err := p.room()
	if err != nil {
		return err
	}
	f := &p.frames[at]
	if p.saved[n] {
		err = p.read(f.data, n)
	} else if !f.fresh {
		clear(f.data)
	}
	if err != nil {
		return err
	}
	f.page, f.dirty, f.fresh = n, false, false
	p.where[n] = int32(at + 1)
	return nil
}

// room finds a frame, a new one or that of a page not used for long.
func (p *Pager) room() (int, error) {
	if len(p.frames) < p.most {
		data, err := p.memory.Alloc(pageSize)
		if err != nil {
			return 0, err
		}
		p.frames = append(p.frames, frame{data: data, page: -1, fresh: true})
		return len(p.frames) - 1, nil
	}
	for {
		at := p.hand
		p.hand = (p.hand + 1) % len(p.frames)
		f := &p.frames[at]
		if f.used {
			f.used = false
			continue
		}
		if f.page >= 0 && f.dirty {
			if err := p.write(f.data, f.page); err != nil {
				return 0, err
			}
			p.saved[f.page] = true
		}
		if f.page >= 0 {
			p.where[f.page], f.page = 0, -1
		}
		return at, nil
	}
}

// leaveHeap moves the pages out of Go's heap, and gives back what the heap has grown to.
func (p *Pager) leaveHeap() error {
	for i := range p.frames {
		moved, err := p.memory.Alloc(pageSize)
		if err != nil {
			return err
		}
		copy(moved, p.frames[i].data)
		p.frames[i].data = moved
	}
	debug.FreeOSMemory()
	return nil
}

func (p *Pager) write(b []byte, n int) error {
	if _, ok := p.dst.(io.ReaderAt); !ok {
		return fmt.Errorf("%w: %w", ErrNotReadable, &LimitError{"bytes of names and inodes in memory", int64(p.most) * pageSize})
	}
	if _, err := p.dst.WriteAt(b, MaxSize+int64(n)*pageSize); err != nil {
		return fmt.Errorf("write names and inodes to the spill file: %w", err)
	}
	return nil
}

func (p *Pager) read(b []byte, n int) error {
	r, ok := p.dst.(io.ReaderAt)
	if !ok {
		return ErrNotReadable
	}
	if _, err := r.ReadAt(b, MaxSize+int64(n)*pageSize); err != nil {
		return fmt.Errorf("read names and inodes from the spill file: %w", err)
	}
	return nil
}

// Text keeps strings of bytes, each in one page. It lies behind the inode table.
type Text struct {
	pages *Pager
	end   int64
}

// Add keeps b, at most 8 KiB, and says where. 0 is nowhere.
func (t *Text) Add(b string) (uint32, error) {
	at := (t.end + textUnit - 1) / textUnit * textUnit
	if at == 0 {
		at = textUnit
	}
	size := int64(len(b)) + 2
	if at/pageSize != (at+size-1)/pageSize {
		at = (at/pageSize + 1) * pageSize
	}
	if at+size > MaxMetadata {
		return 0, &LimitError{"bytes of names, link targets and attributes", MaxMetadata}
	}
	room := t.pages.Page(t.pages.table+int(at/pageSize), true)[at%pageSize:]
	le.PutUint16(room, uint16(len(b)))
	copy(room[2:], b)
	t.end = at + size
	return uint32(at / textUnit), t.pages.Err
}

// textUnit is what places of strings are counted in, bytes.
const textUnit = 4

// Get is valid until the next use of the pages.
func (t *Text) Get(at uint32) []byte {
	page := t.pages.Page(t.pages.table+int(int64(at)*textUnit/pageSize), false)
	b := page[int64(at)*textUnit%pageSize:]
	n := int(le.Uint16(b))
	if 2+n > len(b) { // a page that could not be read
		return nil
	}
	return b[2 : 2+n]
}

// Set replaces a string by one that is not longer.
func (t *Text) Set(at uint32, b string) {
	page := t.pages.Page(t.pages.table+int(int64(at)*textUnit/pageSize), true)
	room := page[int64(at)*textUnit%pageSize:]
	le.PutUint16(room, uint16(len(b)))
	copy(room[2:], b)
}
