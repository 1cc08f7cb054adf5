package crypt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/internal/flock"
)

func (d *VirtualDevice) log() *slog.Logger {
	log := d.Log
	if log == nil {
		log = slog.Default()
	}
	return log.With("image", d.Image.ImagePath)
}

func (d *VirtualDevice) path() string { return d.Image.ImagePath }

// check rejects parameters that would otherwise fail halfway.
func (d *VirtualDevice) check() error {
	switch {
	case !filepath.IsAbs(d.path()):
		return fmt.Errorf("%w: image path %q is not absolute", ErrBadParams, d.path())
	case d.Type != TypeWritable && d.Type != TypeSealed:
		return fmt.Errorf("%w: type %q is neither %q nor %q", ErrBadParams, d.Type, TypeWritable, TypeSealed)
	case d.Deviceparams.FsType != "" && d.Deviceparams.FsType != "ext4":
		return fmt.Errorf("%w: file system %q is not supported, must be ext4", ErrBadParams, d.Deviceparams.FsType)
	case d.Owner.Kind == "" || d.Owner.ID == "":
		return fmt.Errorf("%w: image has no kind or id", ErrBadParams)
	case d.Key == nil:
		return fmt.Errorf("%w: VirtualDevice.Key is not set", ErrNoKeyFunc)
	}
	return nil
}

// UUID reads the image's LUKS2 UUID. It needs no key.
func (d *VirtualDevice) UUID() (string, error) {
	_, uuid, err := d.Identify()
	return uuid, err
}

// Identify reads the image format and the LUKS2 UUID that the header claims, the inputs
// of the image's passphrase. It needs no key; neither value is authenticated.
func (d *VirtualDevice) Identify() (format int, uuid string, err error) {
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return 0, "", fmt.Errorf("image %s: %w", d.path(), err)
	}
	return h.Format(), h.UUID(), nil
}

func (d *VirtualDevice) open(flags int) (*os.File, error) {
	f, err := os.OpenFile(d.path(), flags|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	return f, err
}

// passphrase calls Key and rejects an empty passphrase.
func (d *VirtualDevice) passphrase(ctx context.Context, format int, uuid string) ([]byte, error) {
	passphrase, err := d.Key(ctx, format, uuid)
	if err != nil {
		clear(passphrase)
		return nil, fmt.Errorf("key of image %s: %w", uuid, err)
	}
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("key of image %s: %w: key is empty", uuid, ErrNoKeyFunc)
	}
	return passphrase, nil
}

// lock prevents concurrent opens of the same image, in this process and in others. It
// is an flock of the kernel's and ends with the process. The lock uses an open file of
// its own, because a loop device keeps its backing file open, and with it the lock.
func (d *VirtualDevice) lock(ctx context.Context) (unlock func(), err error) {
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return flock.Keep(ctx, f)
}

// explain distinguishes a full disk from other failures: dm-crypt and loop devices
// report a full disk as an I/O error.
func (d *VirtualDevice) explain(err error) error {
	if err == nil || errors.Is(err, ErrNoSpace) {
		return err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var st unix.Statfs_t
	dir := filepath.Dir(d.path())
	if unix.Statfs(dir, &st) == nil && int64(st.Bavail)*int64(st.Bsize) < fullDisk {
		return fmt.Errorf("%w in %s: %w", ErrNoSpace, dir, err)
	}
	return err
}

// fullDisk is the free space, in bytes, below which a failed write is attributed to a
// full disk: more than the writes that were in progress when it failed.
const fullDisk = 16 << 20
