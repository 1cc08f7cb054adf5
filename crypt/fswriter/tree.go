package fswriter

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"unsafe"
)

// Inode is a file of the image, by its number; 0 is none. A hard link is the same Inode
// under another name.
type Inode uint32

// Node is what is kept in memory of an inode, 16 bytes. The rest lies in its record.
type Node struct {
	Links uint32 // names; of a directory its subdirectories
	A     uint32 // the format's; of a directory that is not written the first of its names
	B     uint32 // the format's; of a directory that is not written its parent
	Kind  uint16 // type bits, and the flags below
	Depth uint16 // of a directory: below the root
}

// Flags of a node's kind, in bits that are no type.
const (
	Whiteout = 1 << iota // overlayfs's mark for "not there": character device 0:0
	Gone                 // no name leads there any more
	Changed              // the format's
)

// IsDir tells directories.
func (n *Node) IsDir() bool { return n.Kind&ModeType == ModeDir }

// Name is a name in a directory, 24 bytes.
type Name struct {
	Text  uint32 // where it is spelled out
	Inode uint32 // 0 when it was taken away
	dir   uint32
	Next  uint32 // another of the directory, made before; 0 ends the list
	chain uint32 // another with such a hash
	hash  uint32
}

// Tree finds names. Names that are taken away stay in the lists, for the next of that
// name: nothing is searched to take one out.
type Tree struct {
	Memory *Arena
	Pages  *Pager
	Nodes  Column[Node] // from inode 1 on
	Names  Column[Name] // from 1 on
	Text   Text

	reserved   int // inodes that are not counted
	recordSize int
	buckets    []uint32
	raw        []byte // the memory of buckets
	seed       maphash.Seed
}

// firstBuckets is how many there are at first; they double when there are as many names.
const firstBuckets = 1 << 12

// Sizes of a format.
type Sizes struct {
	Record   int // bytes kept of each inode; divides a page
	Reserved int // inodes that do not count as files
	Frames   int // pages in memory, of 64 KiB
	Heap     int // bytes that may be of Go's heap
}

// NewTree has no inode yet.
func NewTree(dst io.WriterAt, heap *Heap, o Sizes) (*Tree, error) {
	memory := NewArena(heap)
	memory.share = o.Heap
	table := (MaxFiles+o.Reserved)*o.Record/pageSize + 1
	t := &Tree{
		Memory: memory, Pages: &Pager{dst: dst, memory: memory, table: table, most: o.Frames},
		reserved: o.Reserved, recordSize: o.Record, seed: maphash.MakeSeed(),
	}
	memory.outgrown = t.Pages.leaveHeap
	t.Text.pages, t.Nodes.memory, t.Names.memory = t.Pages, memory, memory
	if _, err := t.Names.Add(); err != nil { // 0 is none
		return t, err
	}
	return t, t.resize(firstBuckets)
}

func (t *Tree) resize(n int) error {
	raw, err := t.Memory.Alloc(n * 4)
	if err != nil {
		return err
	}
	buckets := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(raw))), n)
	for i := 1; i < t.Names.n; i++ {
		e := t.Names.At(i)
		b := &buckets[int(e.hash)&(n-1)]
		e.chain, *b = *b, uint32(i)
	}
	if t.raw != nil {
		t.Memory.Drop(t.raw)
	}
	t.buckets, t.raw = buckets, raw
	return nil
}

// Node is valid as long as the tree.
func (t *Tree) Node(i Inode) *Node { return t.Nodes.At(int(i) - 1) }

// hash depends on a secret: nobody can make names that share one.
func (t *Tree) hash(dir Inode, s string) uint32 {
	h := maphash.String(t.seed, s) ^ uint64(dir)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return uint32(h >> 32)
}

// Find is the number of a name, which may have been taken away; 0 where there never was
// one.
func (t *Tree) Find(dir Inode, s string) (number, hash uint32) {
	hash = t.hash(dir, s)
	for n := t.buckets[int(hash)&(len(t.buckets)-1)]; n != 0; {
		e := t.Names.At(int(n))
		if e.hash == hash && e.dir == uint32(dir) && string(t.Text.Get(e.Text)) == s {
			return n, hash
		}
		n = e.chain
	}
	return 0, hash
}

// Attach gives an inode a name that is free.
func (t *Tree) Attach(dir Inode, s string, i Inode) error {
	number, hash := t.Find(dir, s)
	if number != 0 {
		t.Names.At(int(number)).Inode = uint32(i)
		return nil
	}
	if t.Names.n > MaxFiles {
		return &LimitError{"names", MaxFiles}
	}
	text, err := t.Text.Add(s)
	if err != nil {
		return err
	}
	if t.Names.n >= len(t.buckets) {
		if err := t.resize(2 * len(t.buckets)); err != nil {
			return err
		}
	}
	e, err := t.Names.Add()
	if err != nil {
		return err
	}
	number = uint32(t.Names.n - 1)
	bucket, d := &t.buckets[int(hash)&(len(t.buckets)-1)], t.Node(dir)
	*e = Name{Text: text, Inode: uint32(i), dir: uint32(dir), Next: d.A, chain: *bucket, hash: hash}
	*bucket, d.A = number, number
	return nil
}

// Alloc makes the next inode.
func (t *Tree) Alloc(kind uint16) (Inode, error) {
	if t.Nodes.n >= MaxFiles+t.reserved {
		return 0, &LimitError{"files and directories", MaxFiles}
	}
	n, err := t.Nodes.Add()
	if err != nil {
		return 0, err
	}
	n.Kind = kind
	return Inode(t.Nodes.n), nil
}

// AllocDir makes the next inode, a directory below parent.
func (t *Tree) AllocDir(parent Inode) (Inode, error) {
	depth := t.Node(parent).Depth
	if depth >= MaxDepth {
		return 0, &LimitError{"levels of directories", MaxDepth}
	}
	i, err := t.Alloc(ModeDir)
	if err != nil {
		return 0, err
	}
	n := t.Node(i)
	n.B, n.Depth = uint32(parent), depth+1
	return i, nil
}

// Child is the file of that name in a directory, 0 where there is none.
func (t *Tree) Child(dir Inode, name string) Inode {
	if n, _ := t.Find(dir, name); n != 0 {
		return Inode(t.Names.At(int(n)).Inode)
	}
	return 0
}

// Children lists the names of a directory by their numbers, in the order in which they
// were made.
func (t *Tree) Children(d *Node) []uint32 {
	count := 0
	for at := d.A; at != 0; at = t.Names.At(int(at)).Next {
		count++
	}
	list := make([]uint32, 0, count)
	for at := d.A; at != 0; {
		e := t.Names.At(int(at))
		if e.Inode != 0 {
			list = append(list, at)
		}
		at = e.Next
	}
	slices.Reverse(list)
	return list
}

// Spelled is a name by its number, until the next use of the pages.
func (t *Tree) Spelled(number uint32) []byte { return t.Text.Get(t.Names.At(int(number)).Text) }

// Record is the raw inode, until the next use of the pages.
func (t *Tree) Record(i Inode, write bool) []byte {
	at := int(i-1) * t.recordSize
	page := t.Pages.Page(at/pageSize, write)
	return page[at%pageSize : at%pageSize+t.recordSize : at%pageSize+t.recordSize]
}

// Unlink takes a name away, and with it all that is below a directory. give is called
// for files that have no name left.
func (t *Tree) Unlink(ctx context.Context, parent Inode, name string, give func(Inode) error) error {
	number, _ := t.Find(parent, name)
	if number == 0 || t.Names.At(int(number)).Inode == 0 {
		return t.Pages.Err
	}
	if t.Node(Inode(t.Names.At(int(number)).Inode)).IsDir() {
		t.Node(parent).Links--
	}
	if err := t.drop(ctx, number, give); err != nil {
		return err
	}
	return t.Pages.Err
}

// Drop gives up what a name names. It calls itself for what lies below, so at most
// MaxDepth deep.
func (t *Tree) drop(ctx context.Context, number uint32, give func(Inode) error) error {
	e := t.Names.At(int(number))
	i := Inode(e.Inode)
	if i == 0 {
		return nil
	}
	e.Inode = 0
	n := t.Node(i)
	if n.IsDir() {
		n.Kind |= Gone
		if err := ctx.Err(); err != nil {
			return err
		}
		for child := n.A; child != 0; child = t.Names.At(int(child)).Next {
			if err := t.drop(ctx, child, give); err != nil {
				return err
			}
		}
		return nil
	}
	if n.Links--; n.Links > 0 {
		return nil
	}
	n.Kind |= Gone
	return give(i)
}

// CheckName wants a name that a file can have.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > MaxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %.300q", ErrName, name)
	}
	return nil
}
