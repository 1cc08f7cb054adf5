package image

import "time"

// Meta is what every file has.
type Meta struct {
	Mode   uint16 // permissions, setuid, setgid and sticky bit: 0 to 07777
	UID    uint32
	GID    uint32
	Atime  time.Time
	Mtime  time.Time
	Ctime  time.Time
	Xattrs map[string][]byte // by full name, "user.x"; values as getxattr(2) gives them
}

// Inode is a file of the image. A hard link is the same Inode under another name.
type Inode struct {
	number uint32
	links  uint32
	mode   uint16 // type bits only
	first  uint32 // where its blocks begin, all in one piece
	blocks uint32
	size   int64 // what counts as content
	dir    *dir  // directories only

	whiteout bool
}

type dir struct {
	parent   *Inode
	meta     Meta
	children map[string]*Inode
	subdirs  uint32
}

// IsDir tells directories.
func (i *Inode) IsDir() bool { return i.dir != nil }

// IsWhiteout tells overlayfs's mark for "not there": character device 0:0.
func (i *Inode) IsWhiteout() bool { return i.whiteout }

// Child is the file of that name in a directory, nil where there is none.
func (i *Inode) Child(name string) *Inode {
	if i.dir == nil {
		return nil
	}
	return i.dir.children[name]
}

// tableChunk is how many inode records are allocated at once: 256 KiB.
const tableChunk = 1024

// table holds the inode table, as it will be written. It grows in pieces, so that
// growing never copies.
type table struct {
	chunks [][]byte
	count  uint32 // highest inode number
}

func (t *table) alloc() uint32 {
	t.count++
	if int(t.count-1)/tableChunk == len(t.chunks) {
		t.chunks = append(t.chunks, make([]byte, tableChunk*inodeSize))
	}
	return t.count
}

// record is the raw inode.
func (t *table) record(number uint32) []byte {
	i := int(number - 1)
	at := i % tableChunk * inodeSize
	return t.chunks[i/tableChunk][at : at+inodeSize : at+inodeSize]
}

// putInode writes the fixed part of struct ext4_inode. sectors counts blocks of 512
// bytes, those of the xattrs and of the extent tree included.
func putInode(b []byte, mode uint16, m Meta, size int64, sectors uint64, flags uint32) {
	le.PutUint16(b[0x00:], mode|m.Mode&0o7777)
	le.PutUint16(b[0x02:], uint16(m.UID))
	le.PutUint32(b[0x04:], uint32(size))
	le.PutUint16(b[0x18:], uint16(m.GID))
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint32(b[0x20:], flags)
	le.PutUint32(b[0x6c:], uint32(size>>32))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	le.PutUint16(b[0x78:], uint16(m.UID>>16))
	le.PutUint16(b[0x7a:], uint16(m.GID>>16))
	le.PutUint16(b[0x80:], inodeUsed-128)
	putTime(b[0x08:], b[0x8c:], m.Atime)
	putTime(b[0x0c:], b[0x84:], m.Ctime)
	putTime(b[0x10:], b[0x88:], m.Mtime)
	putTime(b[0x90:], b[0x94:], m.Ctime) // birth
}

func putLinks(b []byte, links uint32) {
	if links > maxLinks {
		links = 1 // directories only: "not counted"
	}
	le.PutUint16(b[0x1a:], uint16(links))
}

// The range of a time in ext4: 34 bits, from 1901 to 2446.
const (
	minTime = -1 << 31
	maxTime = 0x37fffffff
)

// putTime splits a time as ext4 does: 32 bits of signed seconds, then 2 bits that
// extend them past 2038 and 30 bits of nanoseconds.
func putTime(seconds, extra []byte, t time.Time) {
	s, ns := t.Unix(), uint32(t.Nanosecond())
	switch {
	case t.IsZero():
		s, ns = 0, 0
	case s < minTime:
		s, ns = minTime, 0
	case s > maxTime:
		s, ns = maxTime, 0
	}
	le.PutUint32(seconds, uint32(s))
	epoch := uint32((s-int64(int32(s)))>>32) & 3
	le.PutUint32(extra, ns<<2|epoch)
}
