package image

import (
	"time"

	"layervault/crypt/fswriter"
)

// Inode is a file of the image, by its number; 0 is none.
type Inode = fswriter.Inode

// Meta is what every file has.
type Meta = fswriter.Meta

// putInode writes the fixed part of struct ext4_inode. sectors counts blocks of 512
// bytes, those of the xattrs and of the extent tree included.
func putInode(b []byte, mode uint16, m Meta, size int64, sectors uint64, flags uint32) {
	putMeta(b, mode, m)
	putTime(b[0x90:], b[0x94:], m.Ctime) // birth
	putSize(b, size, sectors, flags)
}

// putMeta writes what a later entry may change. mode is the kind.
func putMeta(b []byte, mode uint16, m Meta) {
	le.PutUint16(b[0x00:], mode|m.Mode&0o7777)
	putOwner(b, m)
	putTime(b[0x08:], b[0x8c:], m.Atime)
	putTime(b[0x0c:], b[0x84:], m.Ctime)
	putTime(b[0x10:], b[0x88:], m.Mtime)
}

func putOwner(b []byte, m Meta) {
	le.PutUint16(b[0x02:], uint16(m.UID))
	le.PutUint16(b[0x18:], uint16(m.GID))
	le.PutUint16(b[0x78:], uint16(m.UID>>16))
	le.PutUint16(b[0x7a:], uint16(m.GID>>16))
}

func putSize(b []byte, size int64, sectors uint64, flags uint32) {
	le.PutUint32(b[0x04:], uint32(size))
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint32(b[0x20:], flags)
	le.PutUint32(b[0x6c:], uint32(size>>32))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	le.PutUint16(b[0x80:], inodeUsed-128)
}

func sizeOf(b []byte) int64 { return int64(le.Uint32(b[0x04:])) | int64(le.Uint32(b[0x6c:]))<<32 }

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
