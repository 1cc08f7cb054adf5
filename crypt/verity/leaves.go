package verity

import (
	"fmt"
	"io"
	"unsafe"
)

// Hashes of data blocks lie in pages of memory until Finish. A page is for 8 MiB of data;
// maxPages of them, 1 MiB, are those of 128 MiB, as most layers have; an import is to take 96 MiB in
// all. What is more goes to the scratch area of the destination, which is the encrypted device.
const (
	pageSize   = 64 << 10
	pageHashes = pageSize / HashSize
	maxPages   = 16
)

// ScratchSize is how much room a Writer may use at Options.Scratch, in bytes, for data of at
// most limit bytes.
func ScratchSize(limit int64) int64 {
	blocks := (limit + BlockSize - 1) / BlockSize
	return (blocks + pageHashes - 1) / pageHashes * pageSize
}

// unknown stands for the hash of a block that was not written, or nobody knows how. No block
// has that hash.
var unknown [HashSize]byte

type page struct {
	data   []byte // page aligned, so that the destination may be opened for direct I/O
	number int
	dirty  bool
	used   bool // since the clock passed
}

// leaves keeps the hashes of data blocks. It is for one goroutine at a time. After an error it
// is of no use.
type leaves struct {
	dst     ReadWriterAt
	scratch int64
	where   []int32 // by page: its place in pages, from 1 on; 0 for none
	saved   []bool  // by page: is in the scratch area
	pages   []page
	hand    int
}

// set keeps the hashes of the blocks from first on.
func (l *leaves) set(first uint64, hashes []byte) error {
	for len(hashes) > 0 {
		p, err := l.page(int(first / pageHashes))
		if err != nil {
			return err
		}
		n := copy(p.data[first%pageHashes*HashSize:], hashes)
		p.dirty = true
		hashes = hashes[n:]
		first += uint64(n / HashSize)
	}
	return nil
}

// page is one page in memory, until the next call.
func (l *leaves) page(n int) (*page, error) {
	for n >= len(l.where) {
		l.where, l.saved = append(l.where, 0), append(l.saved, false)
	}
	if at := l.where[n]; at > 0 {
		p := &l.pages[at-1]
		p.used = true
		return p, nil
	}
	at, err := l.room()
	if err != nil {
		return nil, err
	}
	p := &l.pages[at]
	if l.saved[n] {
		if err := readFull(l.dst, p.data, l.scratch+int64(n)*pageSize); err != nil {
			return nil, fmt.Errorf("read hashes back from the scratch area: %w", err)
		}
	} else {
		clear(p.data)
	}
	p.number, p.dirty, p.used = n, false, true
	l.where[n] = int32(at + 1)
	return p, nil
}

// room is a place for a page: a new one, or that of a page not used for long.
func (l *leaves) room() (int, error) {
	if len(l.pages) < maxPages {
		l.pages = append(l.pages, page{data: alignedBytes(pageSize), number: -1})
		return len(l.pages) - 1, nil
	}
	for {
		at := l.hand
		l.hand = (l.hand + 1) % len(l.pages)
		p := &l.pages[at]
		if p.used {
			p.used = false
			continue
		}
		if p.number < 0 {
			return at, nil
		}
		if p.dirty {
			if _, err := l.dst.WriteAt(p.data, l.scratch+int64(p.number)*pageSize); err != nil {
				return 0, fmt.Errorf("set hashes aside in the scratch area: %w", err)
			}
			l.saved[p.number] = true
		}
		l.where[p.number], p.number = 0, -1
		return at, nil
	}
}

// alignedBytes is a slice that begins on a page of memory.
func alignedBytes(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (BlockSize - 1)
	return b[skip : skip+n : skip+n]
}

// readFull reads all of b. The end of r within it is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}
