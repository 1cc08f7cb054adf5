package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/luks2"
	"layervault/internal/durable"
	"layervault/internal/flock"
)

// Remove destroys the image: first its key slots, so that no copy of its blocks opens
// any more, then the file. What is mounted stays readable until it is unmounted. It
// may be called again after a crash; an image that is not there is removed already.
//
// What a crash leaves, by step:
//
//	renamed to a temporary name, synced    the image as it was, or a file for SweepDir
//	keys erased, synced                    that file
//	unlinked, blocks given back            that file, or nothing
//
// So there never is an image under its own name that cannot be opened.
func (im *Image) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := im.Path
	gone := filepath.Join(filepath.Dir(path), tempPrefix(path)+"remove-"+uuid.NewString())
	if err := os.Rename(path, gone); err != nil {
		return ignoreMissing(err)
	}
	if err := durable.SyncPath(filepath.Dir(path)); err != nil {
		return err
	}
	return destroy(ctx, gone)
}

// destroy erases the keys of a file with a temporary name, unlinks the file and gives its
// blocks back.
func destroy(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ignoreMissing(err)
	}
	defer func() { _ = f.Close() }()
	// The kernel frees the blocks of an open image after its last unmount, and those of any
	// other image within moments, see giveBack: a removal waits for that only on a full
	// disk.
	full := isScarce(f)
	var id string
	if full {
		if h, err := luks2.Read(f); err == nil {
			id = h.UUID()
		}
	}
	// What never was an image, or not yet, has no keys to destroy.
	if err := luks2.Erase(f); err != nil && !errors.Is(err, luks2.ErrNotLUKS2) {
		return fmt.Errorf("erase the keys of %s: %w", path, err)
	}
	if err := ignoreMissing(os.Remove(path)); err != nil {
		return err
	}
	if !full || id != "" && !closed(ctx, f, id) {
		return nil
	}
	return giveBack(f)
}

// scarce is the free space, in bytes, below which a delayed release of blocks matters:
// more than is written in the moments that the kernel takes.
const scarce = 1 << 30

// isScarce says whether the file system of a file is nearly full. One that cannot tell is.
func isScarce(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) != nil || int64(st.Bavail)*int64(st.Bsize) < scarce
}

// giveBack frees the blocks of an unlinked, unused file at once. Unlinking alone does not:
// a kernel worker closes the loop device's file some time after the device is gone, so a
// removal meant to free space would leave the disk full.
func giveBack(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("free the blocks of %s: %w", f.Name(), err)
	}
	return nil
}

// closedWithin is the time that a removal waits for the last user of an image. The
// mounts of an ended container go with its mount namespace, which a kernel worker takes
// down within milliseconds; for an image in permanent use a removal waits this long in
// vain.
const closedWithin = 100 * time.Millisecond

// closed makes sure that no device of the image exists. It says false for one in use.
func closed(ctx context.Context, f *os.File, uuid string) bool {
	control, err := dm.Open()
	if err != nil {
		// No device-mapper, no device. (An image can be removed on a host that cannot open it.)
		return errors.Is(err, dm.ErrUnavailable)
	}
	defer func() { _ = control.Close() }()
	ctx, cancel := context.WithTimeout(ctx, closedWithin)
	defer cancel()
	for _, name := range []string{VerityName(uuid), DeviceName(uuid)} { // the upper one first
		if retry(ctx, func() error { return removeIdle(control, name) }) != nil {
			return false
		}
	}
	// Another program's device has another name, and wants the blocks as much.
	number, err := openedOn(f, deviceUUID(uuid))
	return err == nil && number == 0
}

func tempPrefix(path string) string { return "." + filepath.Base(path) + ".tmp-" }

// SweepDir removes the temporary files of interrupted creations and removals in one
// directory. Files that are in use by a running creation stay; so does, until the next
// sweep, the file of a creator killed between fork and exec of a program.
func SweepDir(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), ".tmp-") {
			continue
		}
		errs = append(errs, sweepFile(ctx, filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

func sweepFile(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return ignoreMissing(err)
	}
	defer func() { _ = f.Close() }()
	if err := flock.TryLock(f, flock.Exclusive); errors.Is(err, flock.ErrHeld) {
		return nil
	}
	return destroy(ctx, path)
}

// Sweep removes the devices that a process left behind when it was killed between
// making one and opening it. Devices that are in use go when they no longer are.
// It is for start-up: an image that another process is opening at this moment fails
// to open there.
func Sweep(ctx context.Context) error {
	control, err := dm.Open()
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	names, err := control.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if !strings.HasPrefix(n.Name, devicePrefix) {
			continue
		}
		if err := control.Remove(n.Name, true); err != nil && !errors.Is(err, dm.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
