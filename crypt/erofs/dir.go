package erofs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"layervault/crypt/fswriter"
)

// keyed is a name to be sorted, with the next 8 bytes of how it is spelled: 12 MiB for
// MaxFiles names in one directory.
type keyed struct {
	key  [2]uint32
	name uint32
}

func (a keyed) compare(b keyed) int {
	return cmp.Or(cmp.Compare(a.key[0], b.key[0]), cmp.Compare(a.key[1], b.key[1]), cmp.Compare(a.name, b.name))
}

// compareAll is up to how many names with a common beginning are compared as they are: at
// most 1 MiB.
const compareAll = 4096

// sortNames sorts names that are alike up to offset at. Names may lie where it is slow to
// read them, so each is read once for 8 bytes of it, in the order in which they lie.
func (w *Writer) sortNames(list []keyed, at int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if at > 0 && len(list) <= compareAll {
		return w.sortFew(list, at)
	}
	for i := range list {
		var key [8]byte
		copy(key[:], w.tree.Spelled(list[i].name)[at:])
		list[i].key = [2]uint32{binary.BigEndian.Uint32(key[:4]), binary.BigEndian.Uint32(key[4:])}
	}
	slices.SortFunc(list, keyed.compare)
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].key == list[0].key {
			n++
		}
		if n > 1 { // no name holds a NUL, so these go on
			if err := w.sortNames(list[:n], at+8); err != nil {
				return err
			}
		}
		list = list[n:]
	}
	return w.tree.Pages.Err
}

func (w *Writer) sortFew(list []keyed, at int) error {
	type spelled struct {
		text []byte
		name uint32
	}
	all := make([]spelled, len(list))
	for i, k := range list {
		text := w.tree.Spelled(k.name)
		all[i] = spelled{bytes.Clone(text[min(at, len(text)):]), k.name}
	}
	slices.SortFunc(all, func(a, b spelled) int { return bytes.Compare(a.text, b.text) })
	for i := range all {
		list[i].name = all[i].name
	}
	return w.tree.Pages.Err
}

// sortDir puts the names of a directory in order, and takes those out that are gone.
func (w *Writer) sortDir(d *fswriter.Node) error {
	count := 0
	for at := d.A; at != 0; at = w.tree.Names.At(int(at)).Next {
		count++
	}
	list := make([]keyed, 0, count)
	for at := d.A; at != 0; at = w.tree.Names.At(int(at)).Next {
		if w.tree.Names.At(int(at)).Inode != 0 {
			list = append(list, keyed{name: at})
		}
	}
	if err := w.sortNames(list, 0); err != nil {
		return err
	}
	next := &d.A
	for _, k := range list {
		*next = k.name
		next = &w.tree.Names.At(int(k.name)).Next
	}
	*next = 0
	return nil
}

// dirEntry is a name as it goes into a directory.
type dirEntry struct {
	name  []byte
	inode Inode
}

// eachEntry calls for the names of a directory that is sorted, "." and ".." in their
// places.
func (w *Writer) eachEntry(d Inode, visit func(dirEntry) error) error {
	n := w.tree.Node(d)
	dots := []dirEntry{{[]byte("."), d}, {[]byte(".."), Inode(n.B)}}
	for at := n.A; at != 0; {
		e := w.tree.Names.At(int(at))
		next, i := e.Next, Inode(e.Inode)
		name := w.tree.Spelled(at)
		for len(dots) > 0 && bytes.Compare(dots[0].name, name) < 0 {
			if err := visit(dots[0]); err != nil {
				return err
			}
			dots = dots[1:]
		}
		if err := visit(dirEntry{name, i}); err != nil {
			return err
		}
		at = next
	}
	for _, e := range dots {
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// measure is the size of a directory's content: whole blocks, and what the last one
// needs.
func (w *Writer) measure(d Inode) (full int64, tail int, err error) {
	err = w.eachEntry(d, func(e dirEntry) error {
		n := direntSize + len(e.name)
		if tail+n > blockSize {
			full, tail = full+1, 0
		}
		tail += n
		return nil
	})
	if tail == blockSize {
		full, tail = full+1, 0
	}
	return full, tail, err
}

// dirPacker fills blocks with entries: first their heads, then the names.
type dirPacker struct {
	heads, names []byte
	block        []byte
}

// pack makes the content of a directory and hands it out block by block, each as long as
// what it holds.
func (w *Writer) pack(d Inode, write func(block []byte) error) error {
	var p dirPacker
	err := w.eachEntry(d, func(e dirEntry) error {
		if len(p.heads)+len(p.names)+direntSize+len(e.name) > blockSize {
			if err := write(p.finish()); err != nil {
				return err
			}
		}
		n := w.tree.Node(e.inode)
		p.heads = le.AppendUint64(p.heads, uint64(nid(n)))
		p.heads = le.AppendUint16(p.heads, uint16(len(p.names))) // finish adds where names begin
		p.heads = append(p.heads, fswriter.FileType(n.Kind), 0)
		p.names = append(p.names, e.name...)
		return nil
	})
	if err != nil {
		return err
	}
	return write(p.finish())
}

func (p *dirPacker) finish() []byte {
	for at := 0; at < len(p.heads); at += direntSize {
		b := p.heads[at+8:]
		le.PutUint16(b, le.Uint16(b)+uint16(len(p.heads)))
	}
	p.block = append(append(p.block[:0], p.heads...), p.names...)
	p.heads, p.names = p.heads[:0], p.names[:0]
	return p.block
}
