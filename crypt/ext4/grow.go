package ext4

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64), the same on every
// architecture Go and device-mapper share but MIPS, PowerPC and SPARC.
const ioctlResizeFS = 1<<30 | 8<<16 | 'f'<<8 | 16

// Grow grows a mounted file system to size bytes, rounded down to whole blocks; its
// device must be that large already. It needs CAP_SYS_RESOURCE. Growing to the size
// it has is no error.
func Grow(mountpoint string, size int64) error {
	dir, err := os.Open(mountpoint)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	blocks := uint64(size / BlockSize)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ioctlResizeFS, uintptr(unsafe.Pointer(&blocks)))
	runtime.KeepAlive(dir)
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, unix.ENOTTY):
		return fmt.Errorf("grow %s: %w", mountpoint, ErrNotExt4)
	default:
		return fmt.Errorf("grow %s to %d bytes: %w", mountpoint, size, errno)
	}
}
