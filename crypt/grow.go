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
func (d *VirtualDevice) Size() (int64, error) {
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return 0, fmt.Errorf("image %s: %w", d.path(), err)
	}
	c, err := chainOf(f, h, true)
	return c.size, err
}

// Opened is the number of the device that the image is open as (see unix.Mkdev), 0 when
// nothing uses it: no mount, in whatever mount namespace, and no open file.
func (d *VirtualDevice) Opened() (uint64, error) {
	uuid, err := d.UUID()
	if err != nil {
		return 0, err
	}
	return opened(deviceUUID(uuid))
}

func opened(uuid string) (uint64, error) {
	control, err := dm.Open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = control.Close() }()
	info, err := control.InfoByUUID(uuid)
	if errors.Is(err, dm.ErrNotExist) || err == nil && info.OpenCount == 0 {
		return 0, nil
	}
	return info.Dev, err
}

// Grow makes a writable image larger, to size bytes of data: its file, its device and
// the file system, which must be mounted at Deviceparams.Mnt. Whoever uses it need not
// stop. It cannot be made smaller.
//
// A crash in between leaves a file system that is smaller than its device, which is as
// good as before; growing to the same size again finishes it.
func (d *VirtualDevice) Grow(ctx context.Context, size int64) error {
	if err := d.check(); err != nil {
		return err
	}
	f, err := d.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h, err := d.lockedHeader(ctx, f)
	if err != nil {
		return err
	}
	segment := h.Segment()
	if segment.Size != 0 {
		return fmt.Errorf("grow %s: %w: its header fixes its size", d.path(), ErrBadParams)
	}
	key, err := d.unlock(ctx, f, h)
	if err != nil {
		return err
	}
	defer clear(key)
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	size = size / ext4.BlockSize * ext4.BlockSize
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if have := info.Size() - segment.Offset; size < have {
		return fmt.Errorf("grow %s: %w: it has %d bytes already and cannot be made smaller", d.path(), ErrBadParams, have)
	}
	if err := errors.Join(f.Truncate(segment.Offset+size), f.Sync()); err != nil {
		return d.explain(err)
	}
	c, err := chainOf(f, h, false)
	if err != nil {
		return err
	}
	if err := growDevice(c, key); err != nil {
		return fmt.Errorf("grow %s: %w", d.path(), err)
	}
	if err := ext4.Grow(d.Deviceparams.Mnt, size); err != nil {
		return d.explain(fmt.Errorf("image %s: %w", d.path(), err))
	}
	return nil
}

// growDevice gives an open image's device the length of its file.
func growDevice(c chain, key []byte) error {
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
		return fmt.Errorf("%w: device %s does not lie on one loop device", ErrBadParams, name)
	}
	if err := loop.Refresh(int(unix.Minor(under[0]))); err != nil {
		return err
	}
	if err := control.LoadCrypt(name, cryptTable(control, c, under[0], len(key)), "layervault:"+c.uuid, key); err != nil {
		return err
	}
	return control.Resume(name)
}
