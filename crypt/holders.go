package crypt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/loop"
	"layervault/internal/mounts"
)

// An open device is found by its backing file, never by a name: a UUID is a string in a
// file that anyone may copy, and a device-mapper name is freely chosen. A device belongs to
// an image only if it is backed by a loop device over exactly that file (device and inode
// number, LOOP_GET_STATUS64).
//
//	our device lies on this file      it is used again
//	our device lies on another file   refused: a copy of the image is open
//	a loop device that is not ours    refused: cryptsetup, or Pantavisor's script, has it;
//	lies on this file                 a second mount would destroy the file system

// HolderError names the device that has an image open and prevents a second open. It
// matches ErrInUse.
type HolderError struct {
	Path   string // of the image that was asked for
	Device string // that is in the way: a device-mapper name, or loopN
	// Over is the backing file of Device, as the kernel names it, if that is not the
	// requested image: a copy, or an earlier image of the same path.
	Over   string
	Mounts []string // where Device is mounted, in this mount namespace
}

func (e *HolderError) Error() string {
	mounts := ""
	if len(e.Mounts) > 0 {
		mounts = ", mounted at " + strings.Join(e.Mounts, ", ")
	}
	if e.Over != "" {
		return fmt.Sprintf("%v: device %s has the same UUID but its backing file is %s, not %s%s; close that copy first", ErrInUse, e.Device, e.Over, e.Path, mounts)
	}
	return fmt.Sprintf("%v: %s is open in another program as device %s%s; close the device first", ErrInUse, e.Path, e.Device, mounts)
}

// Is makes the error match ErrInUse.
func (e *HolderError) Is(target error) bool { return target == ErrInUse }

// fileID identifies a file independent of its name.
type fileID struct{ dev, ino uint64 }

func idOf(f *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}, nil //nolint:unconvert // 32 bit has other types
}

// liesOn returns nil if a device is backed by a loop device over the file, else a
// *HolderError. The caller has the device open, so that it cannot disappear.
func liesOn(control *dm.Control, info dm.Info, file *os.File) error {
	id, err := idOf(file)
	if err != nil {
		return err
	}
	under, err := control.Deps(info.Name)
	if err != nil {
		return err
	}
	over := "no single loop device"
	if len(under) == 1 && unix.Major(under[0]) == loop.Major {
		number := int(unix.Minor(under[0]))
		a, err := loop.Status(number)
		if err != nil {
			return err
		}
		if (fileID{a.Dev, a.Ino}) == id {
			return nil
		}
		over = loop.Path(number)
	}
	points, err := mountsOf(info.Dev)
	if err != nil {
		return err
	}
	return &HolderError{Path: file.Name(), Device: info.Name, Over: over, Mounts: points}
}

// refuseHolders returns nil if no other user has the file open in a conflicting way, a
// *HolderError if one has, and dm.ErrExists if that user's device is being removed (see
// retry). own is the dm UUID of layervault's device of this image, which the caller found
// absent. The image is locked.
//
// For read-only use only writers of the file conflict. The kernel reports writers in two
// system calls; checking every loop device of the host takes some microseconds each, which
// adds up when many layers are opened one after the other.
func refuseHolders(file *os.File, own string, readOnly bool) error {
	if readOnly && !hasWriters(file) {
		return nil
	}
	id, err := idOf(file)
	if err != nil {
		return err
	}
	return loop.Over(id.dev, id.ino, func(a loop.Attached) error {
		devices := devicesOver(a.Number)
		if slices.ContainsFunc(devices, func(d deviceOver) bool { return isAside(d.uuid) }) {
			return nil // Verify reads
		}
		if len(devices) == 0 && a.Autoclear {
			return fmt.Errorf("%w: /dev/loop%d of %s is being released", dm.ErrExists, a.Number, file.Name())
		}
		h := &HolderError{Path: file.Name(), Device: fmt.Sprintf("loop%d", a.Number)}
		number := unix.Mkdev(loop.Major, uint32(a.Number))
		for _, d := range devices {
			if d.going || d.uuid == own {
				return fmt.Errorf("%w: %s is being removed", dm.ErrExists, d.name)
			}
			h.Device, number = d.name, d.dev
		}
		if h.Mounts, err = mountsOf(number); err != nil {
			return errors.Join(h, err)
		}
		return h
	})
}

// hasWriters reports whether any process, or loop device, has a file open for writing: only
// then does the kernel deny a read lease. If no lease is possible (the file system has no
// leases, or the file is another user's) the result is true, and the caller checks more
// closely.
func hasWriters(file *os.File) bool {
	fd := file.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return true
	}
	_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	return err != nil
}

// deviceOver is a device-mapper device that lies on a loop device.
type deviceOver struct {
	name, uuid string
	dev        uint64
	going      bool // the kernel does not tell its name any more
}

// devicesOver lists them.
func devicesOver(loopNumber int) []deviceOver {
	dirs, _ := filepath.Glob(fmt.Sprintf("/sys/block/loop%d/holders/*", loopNumber)) // the pattern is sound
	var out []deviceOver
	for _, dir := range dirs {
		d := deviceOver{name: filepath.Base(dir)} // of another kind (md, bcache), or of none
		number, err := readLine(dir + "/dev")
		if err != nil {
			d.going = true
		}
		if strings.HasPrefix(d.name, "dm-") {
			name, nameErr := readLine(dir + "/dm/name")
			uuid, uuidErr := readLine(dir + "/dm/uuid") // empty for a device that has none
			if d.uuid = uuid; nameErr != nil || uuidErr != nil {
				d.going = true
			} else {
				d.name = name
			}
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err == nil {
			d.dev = unix.Mkdev(major, minor)
		}
		out = append(out, d)
	}
	return out
}

func readLine(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSuffix(string(text), "\n"), err
}

// mountsOf lists where a device's file system is mounted, in this mount namespace.
func mountsOf(dev uint64) ([]string, error) {
	infos, err := mounts.List(mounts.OnDevice(dev))
	return mounts.Points(infos), err
}

// openedOn returns the number of a device that has the file open: layervault's of this
// dm UUID, or another program's. 0 if no device has, or only for reading.
func openedOn(file *os.File, own string) (uint64, error) {
	control, err := dm.Open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = control.Close() }()
	info, err := control.InfoByUUID(own)
	if err == nil && info.OpenCount > 0 {
		var elsewhere *HolderError
		switch err := liesOn(control, info, file); {
		case err == nil:
			return info.Dev, nil
		case errors.As(err, &elsewhere):
			// A copy's device: this file is not open.
		case errors.Is(err, dm.ErrNotExist), errors.Is(err, loop.ErrNotAttached):
			return 0, nil // it went while we looked
		default:
			return 0, err
		}
	}
	if err != nil && !errors.Is(err, dm.ErrNotExist) {
		return 0, err
	}
	if !hasWriters(file) {
		return 0, nil
	}
	id, err := idOf(file)
	if err != nil {
		return 0, err
	}
	number := uint64(0)
	err = loop.Over(id.dev, id.ino, func(a loop.Attached) error {
		for _, d := range devicesOver(a.Number) {
			if d.uuid != own && !d.going {
				number = d.dev
			}
		}
		if number == 0 && !a.Autoclear {
			number = unix.Mkdev(loop.Major, uint32(a.Number))
		}
		return nil
	})
	return number, err
}
