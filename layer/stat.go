package layer

import (
	"io/fs"
	"syscall"
)

// statBlock is the unit of st_blocks, whatever the file system's block size
// (stat(2)).
const statBlock = 512

// allocated is how many bytes of a file are on the disk.
func allocated(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * statBlock
	}
	return fi.Size()
}
