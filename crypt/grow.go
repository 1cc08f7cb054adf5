package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/ext4"
	"layervault/crypt/loop"
	"layervault/crypt/luks2"
)

// Size is how many bytes of data the image has room for: the size of its device.
func (im *Image) Size() (int64, error) {
	f, err := im.open(os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return 0, fmt.Errorf("image %s: %w", im.Path, err)
	}
	c, err := chainOf(f, h, true)
	return c.size, err
}

// Opened is the number of the device that has the image open (see unix.Mkdev), 0 if the
// image is unused: no mount, in any mount namespace, and no open file. Another
// program's device counts if it may write to the image; a device of a copy does not.
func (im *Image) Opened() (uint64, error) {
	f, err := im.open(os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if errors.Is(err, luks2.ErrNotLUKS2) || errors.Is(err, luks2.ErrDamaged) {
		// The UUID is unknown, so the image's own device cannot be found; any device on the
		// file counts.
		if err = refuseHolders(f, "", false); errors.Is(err, dm.ErrExists) {
			err = nil // going
		}
		return 0, err
	}
	if err != nil {
		return 0, fmt.Errorf("image %s: %w", im.Path, err)
	}
	return openedOn(f, deviceUUID(h.UUID()))
}

// Grow extends a writable image to size bytes of data: its file, its device and the
// file system, which must be mounted at a directory. Its users need not stop. An
// image cannot shrink.
//
// A crash in between leaves a file system that is smaller than its device, which is as
// good as before; growing to the same size again finishes it.
func (im *Image) Grow(ctx context.Context, at string, size int64) error {
	if err := im.check(); err != nil {
		return err
	}
	v, err := im.verified(ctx, os.O_RDWR)
	if err != nil {
		return err
	}
	defer v.close()
	if err := im.unlock(ctx, v); err != nil {
		return err
	}
	unlock, err := im.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Before anything is changed: the device that is going to be stopped for a moment is
	// this file's, and what is mounted is that device. It stays while its node is open.
	node, err := live(v.file, deviceUUID(v.header.UUID()), true)
	if err != nil {
		return fmt.Errorf("grow %s: %w", im.Path, err)
	}
	if node == nil {
		return fmt.Errorf("grow %s: %w: image is not open", im.Path, ErrBadParams)
	}
	defer func() { _ = node.Close() }()
	if err := im.mountedFrom(node, at); err != nil {
		return fmt.Errorf("grow %s: %w", im.Path, err)
	}
	size = size / ext4.BlockSize * ext4.BlockSize
	info, err := v.file.Stat()
	if err != nil {
		return err
	}
	offset := v.header.Segment().Offset
	if have := info.Size() - offset; size < have {
		return fmt.Errorf("grow %s: %w: size is %d bytes already; an image cannot shrink", im.Path, ErrBadParams, have)
	}
	if err := errors.Join(v.file.Truncate(offset+size), v.file.Sync()); err != nil {
		return im.explain(err)
	}
	c, err := chainOf(v.file, v.header, false)
	if err != nil {
		return err
	}
	if err := growDevice(c, v.key); err != nil {
		return fmt.Errorf("grow %s: %w", im.Path, err)
	}
	if err := ext4.Grow(at, size); err != nil {
		return im.explain(fmt.Errorf("image %s: %w", im.Path, err))
	}
	return nil
}

// mountedFrom checks that the file system at a directory is on the open device.
func (im *Image) mountedFrom(node *os.File, at string) error {
	var dir, dev unix.Stat_t
	if err := unix.Stat(at, &dir); err != nil {
		return &os.PathError{Op: "stat", Path: at, Err: err}
	}
	if err := unix.Fstat(int(node.Fd()), &dev); err != nil {
		return &os.PathError{Op: "stat", Path: node.Name(), Err: err}
	}
	if dir.Dev != dev.Rdev {
		return fmt.Errorf("%w: %s is not mounted at %s", ErrBadParams, im.Path, at)
	}
	return nil
}

// growDevice extends an open image's device to the length of its file. Loading a table
// suspends the device; after any error the device resumes with its old table, because all
// mounts on it would hang otherwise.
func growDevice(c chain, key []byte) (err error) {
	control, err := dm.Open()
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	name := DeviceName(c.uuid)
	under, err := control.Deps(name)
	if err != nil {
		return err
	}
	if len(under) != 1 || unix.Major(under[0]) != loop.Major {
		return fmt.Errorf("%w: device %s is not backed by exactly one loop device", ErrBadParams, name)
	}
	number := int(unix.Minor(under[0]))
	if err := loop.Refresh(number); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, resumeOld(control, name))
		}
	}()
	if err := control.LoadCrypt(name, cryptTable(control, c, under[0], len(key)), "layervault:"+c.uuid, key); err != nil {
		return err
	}
	return control.Resume(name)
}

// resumeOld drops a loaded table and resumes a suspended device.
func resumeOld(control *dm.Control, name string) error {
	// A table that the kernel refused at the last moment is gone already.
	_ = control.Clear(name)
	info, err := control.Info(name)
	if err != nil || !info.Suspended {
		return err
	}
	return control.Resume(name)
}
