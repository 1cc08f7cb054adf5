package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"golang.org/x/sys/unix"
)

// tree is what a source is, without its content.
type tree struct {
	files int64 // names, folders among them
	bytes int64 // on the disk
	// logical is the size of all files with their holes: what they can grow to.
	logical int64
	// state changes whenever anything in the source does: the digest of every name's inode,
	// kind, owner, mode, size, and times of change.
	state string
	// outside are files with more names than the source has: they have names elsewhere.
	outside int64
}

// perName is what a name costs in a new file system beside its content: an inode, its entry in
// the folder, and room for extended attributes.
const perName = 512

// need is the space that a copy takes.
func (t tree) need() int64 { return t.bytes + t.files*perName }

// room is what a new volume must have room for.
func (t tree) room() Need {
	return Need{Bytes: max(t.need(), t.logical+t.files*perName), Files: t.files}
}

// surveyor reads a tree's names.
type surveyor struct {
	ctx   context.Context
	sum   hash.Hash
	t     tree
	names map[uint64]uint64 // of files with several names: how many were not seen yet
}

// survey reads what a source is. Content is not read.
func survey(ctx context.Context, at *folder, name string) (tree, error) {
	s := &surveyor{ctx: ctx, sum: sha256.New(), names: map[uint64]uint64{}}
	if err := s.entry(at, name, "", 0); err != nil {
		return tree{}, err
	}
	for _, left := range s.names {
		if left > 0 {
			s.t.outside++
		}
	}
	s.t.state = hex.EncodeToString(s.sum.Sum(nil))
	return s.t, nil
}

func (s *surveyor) entry(at *folder, name, rel string, depth int) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	st, err := at.stat(name)
	if err != nil {
		return changedIfGone(err)
	}
	s.t.files++
	again := false
	if kindOf(&st) == unix.S_IFREG && st.Nlink > 1 {
		var left uint64
		if left, again = s.names[st.Ino]; !again {
			left = st.Nlink
		}
		s.names[st.Ino] = left - 1
	}
	if !again {
		s.t.bytes += st.Blocks * 512
		if kindOf(&st) == unix.S_IFREG {
			s.t.logical += st.Size
		}
	}
	fmt.Fprintf(s.sum, "%q %d %o %d %d %d %d %d %d %d\n", rel, st.Ino, st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink, sizeOf(&st), st.Mtim.Nano(), st.Ctim.Nano())
	if kindOf(&st) != unix.S_IFDIR {
		return nil
	}
	if depth >= maxDepth {
		return at.fail("read", name, ErrTooDeep)
	}
	below, err := openFolder(at, name)
	if err != nil {
		return changedIfGone(err)
	}
	defer below.close()
	names, err := below.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := s.entry(below, n, join(rel, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}
