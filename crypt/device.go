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

// check refuses what would otherwise fail half-way.
func (d *VirtualDevice) check() error {
	switch {
	case !filepath.IsAbs(d.path()):
		return fmt.Errorf("%w: image path %q is not absolute", ErrBadParams, d.path())
	case d.Type != TypeWritable && d.Type != TypeSealed:
		return fmt.Errorf("%w: type %q is neither %q nor %q", ErrBadParams, d.Type, TypeWritable, TypeSealed)
	case d.Deviceparams.FsType != "" && d.Deviceparams.FsType != "ext4":
		return fmt.Errorf("%w: file system %q, only ext4 is known", ErrBadParams, d.Deviceparams.FsType)
	case d.Owner.Kind == "" || d.Owner.ID == "":
		return fmt.Errorf("%w: an image without kind or id", ErrBadParams)
	case d.Key == nil:
		return fmt.Errorf("%w: set VirtualDevice.Key", ErrNoKeyFunc)
	}
	return nil
}

// UUID reads the image's LUKS2 UUID. It needs no key.
func (d *VirtualDevice) UUID() (string, error) {
	_, uuid, err := d.Identify()
	return uuid, err
}

// Identify reads what of an image's passphrase is told by its header: the format that it
// claims, and its LUKS2 UUID. It needs no key, and nothing vouches for either.
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

// passphrase asks for the image's passphrase and refuses an empty one.
func (d *VirtualDevice) passphrase(ctx context.Context, format int, uuid string) ([]byte, error) {
	passphrase, err := d.Key(ctx, format, uuid)
	if err != nil {
		clear(passphrase)
		return nil, fmt.Errorf("key of image %s: %w", uuid, err)
	}
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("key of image %s: %w: it is empty", uuid, ErrNoKeyFunc)
	}
	return passphrase, nil
}

// lock keeps others, in this process and in others, from opening the same image at
// the same time. It is a lock of the kernel's on the file: it goes with the process.
// It uses an open file of its own, because a loop device keeps the one it was given
// open, and with it the lock.
func (d *VirtualDevice) lock(ctx context.Context) (unlock func(), err error) {
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return lockFile(ctx, f)
}

// lockFile locks an open file, which it closes with the lock.
func lockFile(ctx context.Context, f *os.File) (unlock func(), err error) {
	err = ctx.Err()
	if err == nil {
		err = flock.Lock(ctx, f, flock.Exclusive)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// explain tells a full disk from other failures: dm-crypt and loop devices report it
// as an I/O error.
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
		return fmt.Errorf("%w in %s: free some or use a larger disk: %w", ErrNoSpace, dir, err)
	}
	return err
}

// fullDisk is the free space, in bytes, below which a failed write is put down to a
// full disk: more than the writes that were under way when it failed.
const fullDisk = 16 << 20
