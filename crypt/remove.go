package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/luks2"
)

// Remove destroys the image: first its key slots, so that no copy of its blocks opens
// any more, then the file. What is mounted stays readable until it is unmounted. It
// may be called again after a crash; an image that is not there is removed already.
//
// What a crash leaves, by step:
//
//	renamed to a temporary name, synced    the image as it was, or a file for SweepDir
//	keys erased, synced                    that file
//	unlinked                               that file, or nothing
//
// So there never is an image under its own name that cannot be opened.
func (d *VirtualDevice) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := d.path()
	gone := filepath.Join(filepath.Dir(path), tempPrefix(path)+"remove-"+uuid.NewString())
	if err := os.Rename(path, gone); err != nil {
		return ignoreMissing(err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return destroy(gone)
}

// destroy erases the keys of a file with a temporary name, and unlinks it.
func destroy(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ignoreMissing(err)
	}
	defer func() { _ = f.Close() }()
	// What never was an image, or not yet, has no keys to destroy.
	if err := luks2.Erase(f); err != nil && !errors.Is(err, luks2.ErrNotLUKS2) {
		return fmt.Errorf("erase the keys of %s: %w", path, err)
	}
	return ignoreMissing(os.Remove(path))
}

func tempPrefix(path string) string { return "." + filepath.Base(path) + ".tmp-" }

// SweepDir removes the temporary files of images whose making or removal was interrupted, in
// one directory. Those that are being made just now stay; so does, until the next sweep, one
// whose maker was killed while it started a program, in the moment before that runs.
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
		errs = append(errs, sweepFile(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

func sweepFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return ignoreMissing(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	return destroy(path)
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
