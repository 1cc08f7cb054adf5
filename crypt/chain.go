package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"layervault/crypt/dm"
	"layervault/crypt/loop"
	"layervault/crypt/luks2"
	"layervault/internal/devnode"
)

// DeviceName is the device-mapper name of an image's device.
func DeviceName(uuid string) string { return devicePrefix + uuid }

const devicePrefix = "layervault-"

// IsImageDevice says whether a device-mapper name is that of the device which each open image has
// once: neither that of its hash tree, nor one that it is verified through.
func IsImageDevice(name string) bool {
	return strings.HasPrefix(name, devicePrefix) && !strings.HasPrefix(name, VerityName("")) && !strings.HasPrefix(name, asidePrefix)
}

// deviceUUID follows cryptsetup's convention, so that its tools, and udev's rules,
// know the device.
func deviceUUID(uuid string) string {
	return "CRYPT-LUKS2-" + strings.ReplaceAll(uuid, "-", "") + "-" + DeviceName(uuid)
}

const sector = 512

// chain is what attach builds on: a file, and what its header says.
type chain struct {
	file     *os.File // opened for writing unless readOnly
	uuid     string
	segment  luks2.Segment
	size     int64 // of the data, in bytes
	readOnly bool
}

// chainOf measures an image.
func chainOf(f *os.File, h *luks2.Header, readOnly bool) (chain, error) {
	info, err := f.Stat()
	if err != nil {
		return chain{}, err
	}
	s := h.Segment()
	size := s.Size
	if size == 0 {
		size = info.Size() - s.Offset
	}
	unit := int64(max(s.SectorSize, sector))
	size = size / unit * unit
	if size <= 0 || s.Offset+size > info.Size() {
		return chain{}, fmt.Errorf("image %s: %w: file has %d bytes, data offset is %d", f.Name(), luks2.ErrDamaged, info.Size(), s.Offset)
	}
	return chain{file: f, uuid: h.UUID(), segment: s, size: size, readOnly: readOnly}, nil
}

// attach builds a loop device and a dm-crypt device over a file and returns the open
// node of the dm-crypt device. Both devices live as long as the node, or a later user
// of it, is open.
//
// A crash before the table is resumed and the node open leaves a device without users
// (Sweep removes it, and the loop device with it); a later crash leaves nothing.
func attach(ctx context.Context, c chain, key []byte) (node *os.File, err error) {
	return build(ctx, device{
		file: c.file, name: DeviceName(c.uuid), uuid: deviceUUID(c.uuid), readOnly: c.readOnly, blockSize: c.segment.SectorSize,
		load: func(control *dm.Control, name string, over uint64) error {
			return control.LoadCrypt(name, cryptTable(control, c, over, len(key)), "layervault:"+c.uuid, key)
		},
	})
}

// device is a device-mapper device over a loop device over a file.
type device struct {
	file       *os.File
	name, uuid string // device-mapper's
	readOnly   bool
	blockSize  int // logical, of the loop device
	load       func(control *dm.Control, name string, over uint64) error
}

func build(ctx context.Context, d device) (node *os.File, err error) {
	control, err := dm.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	lo, err := loop.Attach(ctx, d.file, loop.Options{ReadOnly: d.readOnly, DirectIO: true, BlockSize: d.blockSize})
	if err != nil {
		return nil, err
	}
	defer func() { _ = lo.Close() }() // the table holds it from then on
	return stack(control, d.name, d.uuid, d.readOnly, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.load(control, name, lo.Dev)
	})
}

// stack makes a device with the table that load loads, and returns its open node. The device lives
// as long as the node, or a later user of it, is open.
func stack(control *dm.Control, name, uuid string, readOnly bool, load func(name string) error) (node *os.File, err error) {
	if _, err := control.Create(name, uuid); err != nil {
		if errors.Is(err, dm.ErrExists) {
			// The caller holds the image's lock, so no other process is opening that device: it
			// is being removed, or its creator was killed before opening it. An orphan is
			// removed here; a device in removal goes when its last user closes it.
			_ = control.Remove(name, true)
		}
		return nil, err
	}
	defer func() {
		// On success too: removal waits for the last user, which is the node.
		if removeErr := control.Remove(name, true); removeErr != nil && !errors.Is(removeErr, dm.ErrNotExist) {
			if node != nil {
				_ = node.Close()
				node = nil
			}
			err = errors.Join(err, removeErr)
		}
	}()
	if err := load(name); err != nil {
		return nil, err
	}
	if err := control.Resume(name); err != nil {
		return nil, err
	}
	info, err := control.Info(name)
	if err != nil {
		return nil, err
	}
	return devnode.Open(dm.NodePath(info.Dev), info.Dev, readOnly)
}

// cryptTable describes an image's device over a loop device.
func cryptTable(control *dm.Control, c chain, over uint64, keySize int) dm.CryptTable {
	return dm.CryptTable{
		Cipher:       c.segment.Cipher,
		KeySize:      keySize,
		IVOffset:     c.segment.IVTweak,
		Dev:          over,
		Offset:       uint64(c.segment.Offset / sector),
		Length:       uint64(c.size / sector),
		SectorSize:   c.segment.SectorSize,
		ReadOnly:     c.readOnly,
		NoWorkqueues: control.HasCryptWithoutWorkqueues(),
	}
}

// live opens an existing device by its layervault dm UUID. It returns nil if there is
// none, and a *HolderError if its backing file is another one.
func live(file *os.File, uuid string, readOnly bool) (*os.File, error) {
	return liveDevice(uuid, readOnly, func(control *dm.Control, info dm.Info) error { return liesOn(control, info, file) })
}

// Opening races with the end of the last use: until the kernel has removed a device,
// its name is taken but it cannot be opened. That lasts milliseconds, unless a program
// such as udev's blkid has the device open.
const (
	retryFirst = time.Millisecond
	retryMost  = 100 * time.Millisecond
	retryFor   = 20 * time.Second
)

// retry calls f until it no longer reports that a device is going.
func retry(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, retryFor, ErrInUse)
	defer cancel()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := f()
		if !errors.Is(err, dm.ErrExists) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(wait):
		}
	}
}

// closeDevice closes the only node of an image's device and waits until the device is gone.
func closeDevice(ctx context.Context, node *os.File, uuid string) error {
	return closeNamed(ctx, node, DeviceName(uuid))
}

func closeNamed(ctx context.Context, node *os.File, name string) error {
	if err := node.Close(); err != nil {
		return err
	}
	control, err := dm.Open()
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	return retry(ctx, func() error { return removeIdle(control, name) })
}

// removeIdle removes an unused device. A used device is an error on which retry waits.
func removeIdle(control *dm.Control, name string) error {
	err := control.Remove(name, false)
	switch {
	case errors.Is(err, dm.ErrNotExist):
		return nil
	case errors.Is(err, dm.ErrBusy):
		return fmt.Errorf("%w: %w", dm.ErrExists, err)
	}
	return err
}
