package loop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Major is the device number of all loop devices (Documentation/admin-guide/devices.txt).
const Major = 7

// openNode opens /dev/loopN. A /dev that is not a devtmpfs (a container's) knows only
// the devices that were there when it was filled: the node is made then.
func openNode(n int, readOnly bool) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(Major, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
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
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != unix.Mkdev(Major, uint32(n)) {
		_ = f.Close()
		return nil, fmt.Errorf("%s exists and is not loop device %d; remove the file", path, n)
	}
	return f, nil
}
