package crypt

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/internal/mounts"
)

// Get opens the image and mounts it at Deviceparams.Mnt, over whatever is mounted
// there. A sealed image is mounted read-only. Where the image is open already, its
// device is used again, if it lies on this very file, when the header was verified.
//
// Nothing but the mount keeps the image open afterwards: when it is gone, and with it
// every overlay that uses it, the kernel takes down dm-crypt and loop device.
func (d *VirtualDevice) Get(ctx context.Context) error {
	return d.use(ctx, func(node *os.File) error {
		if err := mountImage(node.Name(), d.Deviceparams.Mnt, d.Type == TypeSealed, d.Deviceparams.Options); err != nil {
			return fmt.Errorf("image %s: %w", d.path(), err)
		}
		return node.Close()
	})
}

// mountImage mounts the file system of an open device. Every mount of one image uses
// the same flags, as the kernel wants it.
func mountImage(node, at string, readOnly bool, more MountOptions) error {
	flags, data := more.Flags, "discard,noinit_itable"
	if more.Data != "" {
		data += "," + more.Data
	}
	if readOnly {
		flags, data = unix.MS_RDONLY, ""
	}
	if err := unix.Mount(node, at, "ext4", flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", node, at, err)
	}
	return nil
}

// Held keeps an image open when nothing mounts it any more. It is one file descriptor:
// whatever ends the process lets go of the image.
type Held struct {
	file     *os.File // the device, or an O_PATH descriptor of a mount's root
	node     string
	uuid     string // of a device
	readOnly bool
}

// Hold keeps what Get mounted at Deviceparams.Mnt open, device and file system, until the
// result is closed.
func (d *VirtualDevice) Hold(context.Context) (*Held, error) {
	dir, err := os.OpenFile(d.Deviceparams.Mnt, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("hold image %s: %w", d.path(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("hold image %s: %w", d.path(), err)
	}
	// An ext4's device number is that of the device it lies on.
	return &Held{file: dir, node: dm.NodePath(uint64(st.Dev)), readOnly: d.Type == TypeSealed}, nil //nolint:unconvert // 32 bit has another type
}

// Mount mounts the image once more: a system call, without a look at the image's header
// and without a key. The device cannot have become another's while it is held.
func (h *Held) Mount(at string) error { return mountImage(h.node, at, h.readOnly, MountOptions{}) }

// Close lets go of the image.
func (h *Held) Close() error { return h.file.Close() }

// Put detaches the mount at Deviceparams.Mnt. Where nothing is mounted there, that is
// what was wanted.
func (d *VirtualDevice) Put(context.Context) error {
	return mounts.Detach(d.Deviceparams.Mnt)
}

// use calls f with the open node of the image's device; f closes it, unless it fails.
// The image is locked meanwhile, so that a file system that is being checked is not
// mounted by someone else.
func (d *VirtualDevice) use(ctx context.Context, f func(node *os.File) error) error {
	if err := d.check(); err != nil {
		return err
	}
	readOnly := d.Type == TypeSealed
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	v, err := d.verified(ctx, mode)
	if err != nil {
		return err
	}
	defer v.close()
	done, err := d.openLive(ctx, v, readOnly, f)
	if done || err != nil {
		return err
	}
	if err := d.unlock(ctx, v); err != nil {
		return err
	}
	c, err := chainOf(v.file, v.header, readOnly)
	if err != nil {
		return err
	}
	return retry(ctx, func() error {
		// Someone else may have been faster.
		if done, err := d.openLive(ctx, v, readOnly, f); done || err != nil {
			return err
		}
		unlock, err := d.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if err := refuseHolders(v.file, deviceUUID(c.uuid), readOnly); err != nil {
			return fmt.Errorf("open image %s: %w", d.path(), err)
		}
		node, err := attach(ctx, c, v.key)
		if err != nil {
			return fmt.Errorf("open image %s: %w", d.path(), err)
		}
		err = d.fresh(ctx, node, c.size)
		if err == nil {
			err = f(node)
		}
		if err != nil {
			_ = node.Close()
		}
		return err
	})
}

// openLive calls f with the device of an open image and reports whether there was one.
func (d *VirtualDevice) openLive(ctx context.Context, v *verified, readOnly bool, f func(node *os.File) error) (bool, error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	node, err := live(v.file, deviceUUID(v.header.UUID()), readOnly)
	if err != nil {
		return false, fmt.Errorf("open image %s: %w", d.path(), err)
	}
	if node == nil {
		return false, nil
	}
	if err := f(node); err != nil {
		_ = node.Close()
		return true, err
	}
	return true, nil
}

// fresh looks at the file system of a device that was opened just now, before anyone
// mounts it.
func (d *VirtualDevice) fresh(ctx context.Context, node *os.File, size int64) error {
	s, err := ext4.ReadSuper(node)
	if err != nil {
		return fmt.Errorf("image %s: %w", d.path(), err)
	}
	if s.Size > size {
		return fmt.Errorf("image %s: %w: its file was cut off, %d bytes of %d are left", d.path(), luks2.ErrDamaged, size, s.Size)
	}
	if d.Type == TypeSealed || s.Clean {
		return nil
	}
	ran, err := ext4.Check(ctx, node.Name())
	if ran {
		d.log().Info("checked the file system after an unclean stop", "error", err)
	}
	return err
}
