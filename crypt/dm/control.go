package dm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ControlPath is the device that takes the ioctls.
const ControlPath = "/dev/mapper/control"

// bufferStart and bufferLimit bound the room given to the kernel for an answer. A
// crypt table is about 200 bytes; the list of 10,000 devices is about 1 MiB.
const (
	bufferStart = 16 << 10
	bufferLimit = 64 << 20
)

// Control is an open /dev/mapper/control. It may be used by many goroutines.
type Control struct {
	f       *os.File
	version Version
}

// Version of the ioctl interface, or of a target.
type Version struct{ Major, Minor, Patch uint32 }

// AtLeast compares major and minor.
func (v Version) AtLeast(major, minor uint32) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Open opens the control device and checks that the kernel speaks version 4 of the
// interface. The error wraps ErrUnavailable where there is no device-mapper.
func Open() (*Control, error) {
	f, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open device-mapper: %w", err)
	}
	c := &Control{f: f}
	req := newRequest(headerSize, "", "", 0)
	if err := c.ioctl(unix.DM_VERSION, req); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("device-mapper version: %w", err)
	}
	c.version = decodeVersion(req[offVersion:])
	return c, nil
}

// Close closes the control device; devices stay as they are.
func (c *Control) Close() error { return c.f.Close() }

// Version is that of the kernel's ioctl interface, for example 4.48.0.
func (c *Control) Version() Version { return c.version }

// ioctl passes one request. A request that was interrupted is passed again.
func (c *Control) ioctl(cmd uint, req []byte) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), uintptr(cmd), uintptr(unsafe.Pointer(&req[0])))
		runtime.KeepAlive(c)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		case unix.ENXIO, unix.ENODEV:
			return fmt.Errorf("%w: %w", ErrNotExist, errno)
		case unix.EBUSY:
			return fmt.Errorf("%w: %w", ErrBusy, errno)
		case unix.EEXIST:
			return fmt.Errorf("%w: %w", ErrExists, errno)
		default:
			return errno
		}
	}
}

// query passes a request whose answer has a variable part and grows the buffer until
// the kernel no longer reports it as full. It returns the header and that part.
func (c *Control) query(cmd uint, name, uuid string, flags uint32) (header, data []byte, err error) {
	for size := bufferStart; size <= bufferLimit; size *= 4 {
		req := newRequest(size, name, uuid, flags)
		if err := c.ioctl(cmd, req); err != nil {
			return nil, nil, err
		}
		if native.Uint32(req[offFlags:])&unix.DM_BUFFER_FULL_FLAG != 0 {
			continue
		}
		start, end := native.Uint32(req[offDataStart:]), native.Uint32(req[offDataSize:])
		if start > end || int64(end) > int64(len(req)) {
			return nil, nil, fmt.Errorf("device-mapper answer spans bytes %d to %d, buffer has %d", start, end, len(req))
		}
		return req[:headerSize], req[start:end], nil
	}
	return nil, nil, fmt.Errorf("device-mapper answer exceeds %d bytes", bufferLimit)
}

func decodeVersion(b []byte) Version {
	return Version{native.Uint32(b), native.Uint32(b[4:]), native.Uint32(b[8:])}
}
