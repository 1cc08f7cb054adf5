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

// The kinds of image. A kind is a part of the passphrase and of the header: existing images
// depend on these words.
const (
	KindLayer  = "layer"
	KindVolume = "volume"
	KindDisk   = "disk"
	KindArea   = "area"
)

// The directories at the root of an image's file system. Content lives below
// DirDiff, so that what mkfs leaves at the root (lost+found) is never seen in a
// container. DirWork exists in writable images only; overlayfs needs it on the
// file system of its upper directory.
const (
	DirDiff = "diff"
	DirWork = "work"
)

// Owner is what an image is: the kind and the ID in its passphrase. It is bound into the
// header: an image does not open as another's.
type Owner = luks2.Owner

// Image is one encrypted image. It holds no state of its own: the kernel is asked each time
// whether the image is open, so two values with the same path are the same image.
//
// There are two sorts. A writable image (Create) is an ordinary ext4 with a journal. A sealed
// one (Import) is written once, from a tar, and only mounted read-only.
type Image struct {
	Path  string // of the file, absolute
	Owner        // needed
	Label string // for logs and as the LUKS2 label; may be empty
	// ReadOnly mounts read-only: a sealed image, or one on a disk that cannot be written.
	ReadOnly bool
	// Verity is for sealed images, their making too.
	Verity Verity
	Key    KeyFunc
	Log    *slog.Logger // nil for slog.Default()
}

func (im *Image) log() *slog.Logger {
	log := im.Log
	if log == nil {
		log = slog.Default()
	}
	return log.With("image", im.Path)
}

// check rejects parameters that would otherwise fail halfway.
func (im *Image) check() error {
	switch {
	case !filepath.IsAbs(im.Path):
		return fmt.Errorf("%w: image path %q is not absolute", ErrBadParams, im.Path)
	case im.Kind == "" || im.ID == "":
		return fmt.Errorf("%w: image has no kind or id", ErrBadParams)
	case im.Key == nil:
		return fmt.Errorf("%w: Image.Key is not set", ErrNoKeyFunc)
	}
	return nil
}

// UUID reads the image's LUKS2 UUID. It needs no key.
func (im *Image) UUID() (string, error) {
	_, uuid, err := im.Identify()
	return uuid, err
}

// Identify reads the image format and the LUKS2 UUID that the header claims, the inputs
// of the image's passphrase. It needs no key; neither value is authenticated.
func (im *Image) Identify() (format int, uuid string, err error) {
	f, err := im.open(os.O_RDONLY)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return 0, "", fmt.Errorf("image %s: %w", im.Path, err)
	}
	return h.Format(), h.UUID(), nil
}

func (im *Image) open(flags int) (*os.File, error) {
	f, err := os.OpenFile(im.Path, flags|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	return f, err
}

// passphrase calls Key and rejects an empty passphrase.
func (im *Image) passphrase(ctx context.Context, format int, uuid string) ([]byte, error) {
	passphrase, err := im.Key(ctx, format, uuid)
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
func (im *Image) lock(ctx context.Context) (unlock func(), err error) {
	f, err := im.open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return flock.Keep(ctx, f)
}

// explain distinguishes a full disk from other failures: dm-crypt and loop devices
// report a full disk as an I/O error.
func (im *Image) explain(err error) error {
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
	dir := filepath.Dir(im.Path)
	if unix.Statfs(dir, &st) == nil && int64(st.Bavail)*int64(st.Bsize) < fullDisk {
		return fmt.Errorf("%w in %s: %w", ErrNoSpace, dir, err)
	}
	return err
}

// fullDisk is the free space, in bytes, below which a failed write is attributed to a
// full disk: more than the writes that were in progress when it failed.
const fullDisk = 16 << 20
