package loop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotAttached: the loop device has no file.
var ErrNotAttached = errors.New("loop device is free")

// Attached is an attached loop device, as reported by LOOP_GET_STATUS64.
type Attached struct {
	Number int    // N of /dev/loopN
	Dev    uint64 // of the file system that its file lies on, as stat(2) gives it
	Ino    uint64 // of its file
	// Autoclear: the kernel frees the device when its last user closes it.
	Autoclear bool
}

// Status returns the file that a loop device is attached to. ErrNotAttached if the device
// is free, or does not exist.
func Status(number int) (Attached, error) {
	node, err := openNode(number, true)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return Attached{}, fmt.Errorf("%w: /dev/loop%d: %w", ErrNotAttached, number, err)
	}
	if err != nil {
		return Attached{}, err
	}
	defer func() { _ = node.Close() }()
	return statusOf(node, number)
}

func statusOf(node *os.File, number int) (Attached, error) {
	s, err := unix.IoctlLoopGetStatus64(int(node.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return Attached{}, fmt.Errorf("%w: /dev/loop%d", ErrNotAttached, number)
	}
	if err != nil {
		return Attached{}, fmt.Errorf("status of /dev/loop%d: %w", number, err)
	}
	return Attached{
		Number: number, Dev: decodeDev(s.Device), Ino: s.Inode, Autoclear: s.Flags&unix.LO_FLAGS_AUTOCLEAR != 0,
	}, nil
}

// decodeDev reads a device number in the kernel's huge_encode_dev form.
func decodeDev(d uint64) uint64 {
	return unix.Mkdev(uint32((d&0xfff00)>>8), uint32((d&0xff)|((d>>12)&0xfff00)))
}

// blockDir is where the kernel lists block devices.
const blockDir = "/sys/block"

// Over calls found for each loop device attached to a file, by any program, until found
// returns an error, which Over returns: dev and ino identify the file, as in stat(2). While
// found runs the device is held open and stays attached to that file; an autoclear device is
// freed afterwards by its last close. Devices that appear or disappear meanwhile may be
// missed.
func Over(dev, ino uint64, found func(Attached) error) error {
	dir, err := os.Open(blockDir)
	if err != nil {
		return fmt.Errorf("list loop devices: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("list loop devices: %w", err)
	}
	for _, name := range names {
		number, err := strconv.Atoi(strings.TrimPrefix(name, "loop"))
		if err != nil || !strings.HasPrefix(name, "loop") {
			continue
		}
		// Kernels keep some free devices: those have no such directory.
		if _, err := os.Lstat(blockDir + "/" + name + "/loop"); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := overOne(number, dev, ino, found); err != nil {
			return err
		}
	}
	return nil
}

func overOne(number int, dev, ino uint64, found func(Attached) error) error {
	node, err := openNode(number, true)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return nil // it went
	}
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }()
	a, err := statusOf(node, number)
	if errors.Is(err, ErrNotAttached) {
		return nil
	}
	if err != nil || a.Dev != dev || a.Ino != ino {
		return err
	}
	return found(a)
}

// Path is the path of a loop device's file as the kernel knows it, for people; "" where the
// device is free.
func Path(number int) string {
	text, err := os.ReadFile(fmt.Sprintf("%s/loop%d/loop/backing_file", blockDir, number))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}
