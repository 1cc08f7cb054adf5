// Package loop attaches files to loop devices with LOOP_CONFIGURE, which sets the file
// and all options in one step: a device is either free or completely configured. Every
// device is autoclear: when the last user closes it, the kernel frees it.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ControlPath is the device that hands out free loop devices.
const ControlPath = "/dev/loop-control"

// attempts limits the retries of Attach after losing the race for an offered device.
// Each lost race is progress of another process, so a few dozen concurrent processes
// stay far below the limit.
const attempts = 512

var (
	// ErrUnavailable: this kernel offers no loop devices.
	ErrUnavailable = errors.New("loop devices are not available")
	// ErrContended: other processes took every offered device first.
	ErrContended = errors.New("no free loop device")
)

// Options of a device.
type Options struct {
	ReadOnly bool
	// DirectIO passes requests to the file past the page cache, so that blocks are not
	// cached twice. Where the file system under the file cannot do it, the device is
	// attached without; Device.DirectIO tells.
	DirectIO bool
	// BlockSize is the logical block size in bytes, a power of two from 512 to the page
	// size; 0 for 512. Direct I/O needs one no smaller than that of the disk beneath.
	BlockSize int
}

// Device is an attached loop device. It lives as long as this handle, or any later one,
// is open.
type Device struct {
	*os.File        // the open /dev/loopN
	Number   int    // N
	Dev      uint64 // as unix.Mkdev gives it
	DirectIO bool   // what the kernel made of Options.DirectIO
}

// Attach attaches an open file to a free loop device. The file may be closed
// afterwards. A cancelled context stops it between two attempts.
func Attach(ctx context.Context, file *os.File, o Options) (*Device, error) {
	control, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open loop control: %w", err)
	}
	defer func() { _ = control.Close() }()
	for range attempts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		d, err := configure(n, file, o)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
			continue // taken, or just removed by LOOP_CTL_REMOVE
		}
		if err != nil {
			return nil, fmt.Errorf("attach %s to /dev/loop%d: %w", filepath.Base(file.Name()), n, err)
		}
		return d, nil
	}
	return nil, fmt.Errorf("%w after %d attempts", ErrContended, attempts)
}

func configure(n int, file *os.File, o Options) (*Device, error) {
	node, err := openNode(n, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	var flags uint32 = unix.LO_FLAGS_AUTOCLEAR
	if o.ReadOnly {
		flags |= unix.LO_FLAGS_READ_ONLY
	}
	if o.DirectIO {
		flags |= unix.LO_FLAGS_DIRECT_IO
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: uint32(o.BlockSize)}
	config.Info.Flags = flags
	copy(config.Info.File_name[:len(config.Info.File_name)-1], file.Name())
	err = unix.IoctlLoopConfigure(int(node.Fd()), &config)
	if errors.Is(err, unix.EINVAL) && o.DirectIO {
		// Most kernels leave out what they cannot do; one that refuses is asked again.
		config.Info.Flags &^= unix.LO_FLAGS_DIRECT_IO
		err = unix.IoctlLoopConfigure(int(node.Fd()), &config)
	}
	if err != nil {
		_ = node.Close()
		return nil, err
	}
	status, err := unix.IoctlLoopGetStatus64(int(node.Fd()))
	if err != nil {
		_ = node.Close() // and with it, by autoclear, the attachment
		return nil, err
	}
	return &Device{
		File:     node,
		Number:   n,
		Dev:      unix.Mkdev(Major, uint32(n)),
		DirectIO: status.Flags&unix.LO_FLAGS_DIRECT_IO != 0,
	}, nil
}
