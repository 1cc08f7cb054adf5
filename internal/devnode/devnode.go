// Package devnode opens the nodes of block devices below /dev.
package devnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens the node of a block device (see unix.Mkdev), for reading or for reading and
// writing. A /dev that is no devtmpfs, such as a container's, has only the nodes of devices
// that existed when it was filled: a missing node is made. A node of another device, or a
// file that is no block device, is an error.
func Open(path string, dev uint64, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(dev)); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make %s: %w", path, os.NewSyscallError("mknod", err))
		}
		f, err = os.OpenFile(path, mode, 0)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || uint64(st.Rdev) != dev { //nolint:unconvert // 32 bit has another type
		_ = f.Close()
		return nil, fmt.Errorf("%s exists and is not device %d:%d; remove the file", path, unix.Major(dev), unix.Minor(dev))
	}
	return f, nil
}
