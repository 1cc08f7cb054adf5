package crypt

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
	"layervault/internal/devnode"
)

// A sealed image with a hash tree has a second device over the first, dm-verity over dm-crypt:
// what is mounted is that one. Both go when its last user goes.

// VerityName is the device-mapper name of that device.
func VerityName(uuid string) string { return DeviceName("verity-" + uuid) }

func verityUUID(uuid string) string { return "LAYERVAULT-VERITY-" + uuid }

// checkTree refuses an image that is shorter than its tree.
func checkTree(t verity.Tree, size int64) error {
	if t.End() > size {
		return fmt.Errorf("%w: file is truncated to %d of %d bytes", luks2.ErrDamaged, size, t.End())
	}
	return nil
}

func verityTable(t verity.Tree, over uint64) dm.VerityTable {
	return dm.VerityTable{DataDev: over, HashDev: over, DataBlocks: t.DataBlocks, HashStart: t.HashStart, Root: t.Root, Salt: t.Salt}
}

// attachTree builds a dm-verity device over the open node of an image's dm-crypt device, and
// returns its open node in place of that one, which is closed.
//
// A crash leaves nothing, or the new device without users, see attach.
func attachTree(node *os.File, uuid string, t verity.Tree) (_ *os.File, err error) {
	defer func() { err = errors.Join(err, node.Close()) }()
	over, err := numberOf(node)
	if err != nil {
		return nil, err
	}
	control, err := dm.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	if !control.HasVerity() {
		return nil, ErrNoVerity
	}
	return stack(control, VerityName(uuid), verityUUID(uuid), true, func(name string) error {
		return control.LoadVerity(name, verityTable(t, over))
	})
}

// numberOf is the device number of an open node.
func numberOf(node *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(node.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: node.Name(), Err: err}
	}
	return uint64(st.Rdev), nil //nolint:unconvert // 32 bit has another type
}

// liveTree opens an image's existing dm-verity device, as live does its dm-crypt device. A device
// that lies on another image, or that has another tree, is a *HolderError.
func liveTree(file *os.File, uuid string, t verity.Tree) (*os.File, error) {
	return liveDevice(verityUUID(uuid), true, func(control *dm.Control, info dm.Info) error {
		holder := &HolderError{Path: file.Name(), Device: info.Name, Over: "another image"}
		below, err := control.InfoByUUID(deviceUUID(uuid))
		if errors.Is(err, dm.ErrNotExist) {
			return holder
		}
		if err != nil {
			return err
		}
		targets, err := control.Table(info.Name)
		if err != nil {
			return err
		}
		if !verityTable(t, below.Dev).Is(targets) {
			return holder
		}
		return liesOn(control, below, file)
	})
}

// liveDevice opens an existing device by its dm UUID, if check takes it. It returns nil if there
// is none.
func liveDevice(uuid string, readOnly bool, check func(*dm.Control, dm.Info) error) (*os.File, error) {
	control, err := dm.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	info, err := control.InfoByUUID(uuid)
	if errors.Is(err, dm.ErrNotExist) || err == nil && !info.Active {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	node, err := devnode.Open(dm.NodePath(info.Dev), info.Dev, readOnly)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return nil, nil // it went while we came
	}
	if err != nil {
		return nil, err
	}
	// The number may have been reused between lookup and open. An open device keeps its
	// number.
	now, err := control.InfoByUUID(uuid)
	if err != nil || now.Dev != info.Dev {
		_ = node.Close()
		if err == nil || errors.Is(err, dm.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	if err := check(control, now); err != nil {
		_ = node.Close()
		return nil, err
	}
	return node, nil
}
