package image

import "layervault/crypt/fswriter"

// extent maps blocks of a file to blocks of the image.
type extent struct {
	logical, physical uint32
	blocks            uint32
}

// maxExtent is the largest length of one extent: one more bit would mean "unwritten".
const maxExtent = 1 << 15

const (
	extentMagic     = 0xf30a
	extentEntrySize = 12
	extentsInInode  = 4
	extentsInBlock  = BlockSize/extentEntrySize - 1
)

// appendExtent adds one block run, joined to the one before where it continues it.
func appendExtent(list []extent, e extent) []extent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.logical+last.blocks == e.logical && last.physical+last.blocks == e.physical {
			take := min(e.blocks, maxExtent-last.blocks)
			last.blocks += take
			e = extent{e.logical + take, e.physical + take, e.blocks - take}
		}
	}
	for e.blocks > 0 {
		take := min(e.blocks, maxExtent)
		list = append(list, extent{e.logical, e.physical, take})
		e = extent{e.logical + take, e.physical + take, e.blocks - take}
	}
	return list
}

// extentTree fills root, the 60 bytes in the inode, with a tree over list. Levels
// that do not fit there go to blocks of their own, appended to s.
func extentTree(s *fswriter.Stream, root []byte, list []extent) error {
	depth := 0
	// entries of the level being written, and their index for the level above: extents
	// at the bottom, then (first logical block, block that holds them).
	level := list
	for len(level) > extentsInInode {
		var above []extent
		for len(level) > 0 {
			n := min(len(level), extentsInBlock)
			block := make([]byte, BlockSize)
			putExtents(block, level[:n], depth)
			above = append(above, extent{logical: level[0].logical, physical: s.Block()})
			if err := s.Append(block); err != nil {
				return err
			}
			level = level[n:]
		}
		level = above
		depth++
	}
	putExtents(root[:60], level, depth)
	return nil
}

// putExtents writes a node: struct ext4_extent_header, then ext4_extent at depth 0 or
// ext4_extent_idx above it.
func putExtents(b []byte, list []extent, depth int) {
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(len(list)))
	le.PutUint16(b[4:], uint16(len(b)/extentEntrySize-1))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range list {
		at := b[(i+1)*extentEntrySize:]
		le.PutUint32(at[0:], e.logical)
		if depth == 0 {
			le.PutUint16(at[4:], uint16(e.blocks))
			le.PutUint32(at[8:], e.physical)
		} else {
			le.PutUint32(at[4:], e.physical)
		}
	}
}
