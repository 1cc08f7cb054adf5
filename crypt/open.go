package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/erofs"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
)

// Mount opens the image and mounts it at a directory, over any existing mount. The options
// are for writable images. The device of an open image is reused after the header is
// verified, if its backing file is this file.
//
// Only the mount keeps the image open afterwards: after the last unmount, overlays on
// the image included, the kernel removes the dm-crypt and loop devices.
func (im *Image) Mount(ctx context.Context, at string, options MountOptions) error {
	return im.use(ctx, func(node *os.File, fs FileSystem) error {
		if err := mountImage(fs, node.Name(), at, im.ReadOnly, options); err != nil {
			return fmt.Errorf("image %s: %w", im.Path, err)
		}
		return node.Close()
	})
}

// mountImage mounts the file system of an open device. All mounts of one image use the
// same flags, as the kernel requires.
func mountImage(fs FileSystem, node, at string, readOnly bool, more MountOptions) error {
	flags, data := more.Flags, "discard,noinit_itable"
	if more.Data != "" {
		data += "," + more.Data
	}
	if readOnly {
		flags, data = unix.MS_RDONLY, ""
	}
	if err := unix.Mount(node, at, string(fs), flags, data); err != nil {
		if fs == EROFS && !HasEROFS() {
			err = fmt.Errorf("%w: %w", ErrNoEROFS, err)
		}
		return fmt.Errorf("mount %s at %s: %w", node, at, err)
	}
	if fs != EROFS {
		return nil
	}
	if err := checkXattrs(at); err != nil {
		return fmt.Errorf("mount %s at %s: %w", node, at, errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)))
	}
	return nil
}

// Held keeps an unmounted image open. It is one file descriptor, so the end of the
// process closes the image.
type Held struct {
	file     *os.File // the device, or an O_PATH descriptor of a mount's root
	node     string
	uuid     string // of a device
	readOnly bool
	fs       FileSystem
}

// Hold keeps what Mount mounted at a directory open, device and file system, until the
// result is closed.
func (im *Image) Hold(at string) (*Held, error) {
	dir, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("hold image %s: %w", im.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("hold image %s: %w", im.Path, err)
	}
	var vfs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &vfs); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("hold image %s: %w", im.Path, err)
	}
	fs := Ext4
	if vfs.Type == unix.EROFS_SUPER_MAGIC_V1 {
		fs = EROFS
	}
	// Either file system's device number is that of the device it lies on.
	return &Held{file: dir, node: dm.NodePath(uint64(st.Dev)), readOnly: im.ReadOnly, fs: fs}, nil //nolint:unconvert // 32 bit has another type
}

// Mount mounts the image once more: one system call, without reading the header and
// without a key. The device number cannot be reused while the image is held.
func (h *Held) Mount(at string) error {
	return mountImage(h.fs, h.node, at, h.readOnly, MountOptions{})
}

// Close closes the image.
func (h *Held) Close() error { return h.file.Close() }

// use calls f with the open node of the image's device; f closes the node, except on
// error. The image is locked meanwhile, so that no other process mounts a file system
// during its check.
func (im *Image) use(ctx context.Context, f func(node *os.File, fs FileSystem) error) error {
	if err := im.check(); err != nil {
		return err
	}
	mode := os.O_RDWR
	if im.ReadOnly {
		mode = os.O_RDONLY
	}
	v, err := im.verified(ctx, mode)
	if err != nil {
		return err
	}
	defer v.close()
	done, err := im.openLive(ctx, v, f)
	if done || err != nil {
		return err
	}
	if err := im.unlock(ctx, v); err != nil {
		return err
	}
	c, err := chainOf(v.file, v.header, im.ReadOnly)
	if err != nil {
		return err
	}
	if v.content.tree != nil {
		if err := checkTree(*v.content.tree, c.size); err != nil {
			return fmt.Errorf("image %s: %w", im.Path, err)
		}
	}
	return retry(ctx, func() error {
		// Another process may have been faster.
		if done, err := im.openLive(ctx, v, f); done || err != nil {
			return err
		}
		unlock, err := im.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if err := refuseHolders(v.file, deviceUUID(c.uuid), im.ReadOnly); err != nil {
			return fmt.Errorf("open image %s: %w", im.Path, err)
		}
		node, err := attach(ctx, c, v.key)
		if err == nil && v.content.tree != nil {
			node, err = attachTree(node, c.uuid, *v.content.tree)
		}
		if err != nil {
			return fmt.Errorf("open image %s: %w", im.Path, err)
		}
		err = im.fresh(ctx, node, v.content.fs, c.size)
		if err == nil {
			err = f(node, v.content.fs)
		}
		if err != nil {
			err = v.blame(err) // while the device is there
			_ = node.Close()
		}
		return err
	})
}

// openLive calls f with the device of an open image and reports whether there was one.
func (im *Image) openLive(ctx context.Context, v *verified, f func(node *os.File, fs FileSystem) error) (bool, error) {
	unlock, err := im.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	node, err := v.live(im.ReadOnly)
	if err != nil {
		return false, fmt.Errorf("open image %s: %w", im.Path, err)
	}
	if node == nil {
		return false, nil
	}
	if err := f(node, v.content.fs); err != nil {
		_ = node.Close()
		return true, err
	}
	return true, nil
}

// live opens the device that an open image's file system lies on, nil where the image is closed.
func (v *verified) live(readOnly bool) (*os.File, error) {
	if v.content.tree != nil {
		return liveTree(v.file, v.header.UUID(), *v.content.tree)
	}
	return live(v.file, deviceUUID(v.header.UUID()), readOnly)
}

// fresh checks the file system of a newly opened device before its first mount.
func (im *Image) fresh(ctx context.Context, node *os.File, fs FileSystem, size int64) error {
	if fs == EROFS {
		used, err := erofs.ReadSuper(node)
		if err == nil && used > size {
			err = fmt.Errorf("%w: file is truncated to %d of %d bytes", luks2.ErrDamaged, size, used)
		}
		if err != nil {
			return fmt.Errorf("image %s: %w", im.Path, err)
		}
		return nil
	}
	s, err := ext4.ReadSuper(node)
	if err != nil {
		return fmt.Errorf("image %s: %w", im.Path, err)
	}
	if s.Size > size {
		return fmt.Errorf("image %s: %w: file is truncated to %d of %d bytes", im.Path, luks2.ErrDamaged, size, s.Size)
	}
	if im.ReadOnly || s.Clean {
		return nil
	}
	ran, err := ext4.Check(ctx, node.Name())
	if ran {
		im.log().Info("checked the file system after an unclean stop", "error", err)
	}
	return err
}
