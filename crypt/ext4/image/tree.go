package image

import (
	"hash/maphash"
	"unsafe"
)

// Inode is a file of the image, by its number; 0 is none. A hard link is the same Inode
// under another name.
type Inode uint32

// node is what is kept in memory of an inode, 16 bytes. The rest lies in its record.
type node struct {
	links uint32 // names; of a directory its subdirectories
	a     uint32 // first block; of a directory that is not written the first of its names
	b     uint32 // number of blocks, all in one piece; of a directory that is not written its parent
	kind  uint16 // type bits, and the flags below
	depth uint16 // of a directory: below the root
}

// Flags of a node's kind, in bits that are no type.
const (
	isWhiteout = 1 << iota // overlayfs's mark for "not there": character device 0:0
	isGone                 // no name leads there any more
)

func (n *node) isDir() bool { return n.kind&modeType == modeDir }

// name is a name in a directory, 24 bytes.
type name struct {
	text  uint32 // where it is spelled out
	inode uint32 // 0 when it was taken away
	dir   uint32
	next  uint32 // another of the directory, made before; 0 ends the list
	chain uint32 // another with such a hash
	hash  uint32
}

// tree finds names. Names that are taken away stay in the lists, for the next of that
// name: nothing is searched to take one out.
type tree struct {
	nodes   column[node] // from inode 1 on
	names   column[name] // from 1 on
	buckets []uint32
	raw     []byte // the memory of buckets
	text    text
	seed    maphash.Seed
	memory  *arena
}

// firstBuckets is how many there are at first; they double when there are as many names.
const firstBuckets = 1 << 12

func (t *tree) init(memory *arena, pages *pager) error {
	t.memory, t.text.pages, t.seed = memory, pages, maphash.MakeSeed()
	t.nodes.memory, t.names.memory = memory, memory
	if _, err := t.names.add(); err != nil { // 0 is none
		return err
	}
	return t.resize(firstBuckets)
}

func (t *tree) resize(n int) error {
	raw, err := t.memory.alloc(n * 4)
	if err != nil {
		return err
	}
	buckets := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(raw))), n)
	for i := 1; i < t.names.n; i++ {
		e := t.names.at(i)
		b := &buckets[int(e.hash)&(n-1)]
		e.chain, *b = *b, uint32(i)
	}
	if t.raw != nil {
		t.memory.drop(t.raw)
	}
	t.buckets, t.raw = buckets, raw
	return nil
}

func (t *tree) node(i Inode) *node { return t.nodes.at(int(i) - 1) }

// hash depends on a secret: nobody can make names that share one.
func (t *tree) hash(dir Inode, s string) uint32 {
	h := maphash.String(t.seed, s) ^ uint64(dir)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return uint32(h >> 32)
}

// find is the number of a name, which may have been taken away; 0 where there never was
// one.
func (t *tree) find(dir Inode, s string) (number, hash uint32) {
	hash = t.hash(dir, s)
	for n := t.buckets[int(hash)&(len(t.buckets)-1)]; n != 0; {
		e := t.names.at(int(n))
		if e.hash == hash && e.dir == uint32(dir) && string(t.text.get(e.text)) == s {
			return n, hash
		}
		n = e.chain
	}
	return 0, hash
}

// attach gives an inode a name that is free.
func (t *tree) attach(dir Inode, s string, i Inode) error {
	number, hash := t.find(dir, s)
	if number != 0 {
		t.names.at(int(number)).inode = uint32(i)
		return nil
	}
	if t.names.n > MaxFiles {
		return &LimitError{"names", MaxFiles}
	}
	text, err := t.text.add(s)
	if err != nil {
		return err
	}
	if t.names.n >= len(t.buckets) {
		if err := t.resize(2 * len(t.buckets)); err != nil {
			return err
		}
	}
	e, err := t.names.add()
	if err != nil {
		return err
	}
	number = uint32(t.names.n - 1)
	bucket, d := &t.buckets[int(hash)&(len(t.buckets)-1)], t.node(dir)
	*e = name{text: text, inode: uint32(i), dir: uint32(dir), next: d.a, chain: *bucket, hash: hash}
	*bucket, d.a = number, number
	return nil
}

// alloc makes the next inode.
func (t *tree) alloc(kind uint16) (Inode, error) {
	if t.nodes.n >= MaxFiles+inoFirst {
		return 0, &LimitError{"files and directories", MaxFiles}
	}
	n, err := t.nodes.add()
	if err != nil {
		return 0, err
	}
	n.kind = kind
	return Inode(t.nodes.n), nil
}

// Child is the file of that name in a directory, 0 where there is none.
func (w *Writer) Child(dir Inode, name string) Inode {
	if n, _ := w.tree.find(dir, name); n != 0 {
		return Inode(w.tree.names.at(int(n)).inode)
	}
	return 0
}

// Parent is the directory that a directory lies in; of the root the root.
func (w *Writer) Parent(dir Inode) Inode { return Inode(w.tree.node(dir).b) }

// IsDir tells directories.
func (w *Writer) IsDir(i Inode) bool { return w.tree.node(i).isDir() }

// IsWhiteout tells overlayfs's mark for "not there": character device 0:0.
func (w *Writer) IsWhiteout(i Inode) bool { return w.tree.node(i).kind&isWhiteout != 0 }

// Target is where a symbolic link points to; false for every other file.
func (w *Writer) Target(i Inode) (string, bool) {
	if w.tree.node(i).kind&modeType != modeSymlink {
		return "", false
	}
	record := w.record(i, false)
	size := sizeOf(record)
	if size < fastLink {
		return string(record[blockArea : blockArea+size]), true
	}
	return string(w.tree.text.get(le.Uint32(record[linkText:]))), true
}

// record is the raw inode, until the next use of the pages.
func (w *Writer) record(i Inode, write bool) []byte {
	at := int(i-1) * inodeSize
	page := w.pages.page(at/pageSize, write)
	return page[at%pageSize : at%pageSize+inodeSize : at%pageSize+inodeSize]
}
