package ext4

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// trimRange is struct fstrim_range of linux/fs.h.
type trimRange struct{ start, length, minLength uint64 }

// ioctlTrim is FITRIM, _IOWR('X', 121, struct fstrim_range); MIPS, PowerPC and SPARC
// number it otherwise.
const ioctlTrim = 3<<30 | 24<<16 | 'X'<<8 | 121

// Trim tells the device beneath a mounted file system which blocks are not used, so
// that a sparse image gives them back to its disk. It returns how many bytes the file
// system says it trimmed, which is more than what comes free where part of it was never
// written.
func Trim(mountpoint string) (int64, error) {
	dir, err := os.Open(mountpoint)
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	r := trimRange{length: math.MaxUint64}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ioctlTrim, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(dir)
	switch {
	case errno == 0:
		return int64(r.length), nil
	case errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EOPNOTSUPP):
		return 0, fmt.Errorf("trim %s: %w", mountpoint, ErrNoTrim)
	default:
		return 0, fmt.Errorf("trim %s: %w", mountpoint, errno)
	}
}
