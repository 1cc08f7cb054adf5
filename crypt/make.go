package crypt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/internal/durable"
)

// subsystem is written into every header: blkid shows it.
const subsystem = "layervault"

// labelSize is what a file system's label holds, in bytes.
const labelSize = 16

// Create makes a writable image: a sparse file of the header and size bytes of data,
// with an ext4 file system that has DirDiff and DirWork. Very little of it is on disk.
func (d *VirtualDevice) Create(ctx context.Context, size int64) error {
	held, err := d.CreateHeld(ctx, size)
	if err != nil {
		return err
	}
	// The device is gone on return, because Get cannot use a device in removal.
	return closeDevice(context.WithoutCancel(ctx), held.file, held.uuid)
}

// CreateHeld is Create for an image that is about to be used: its device stays open
// until the result is closed, so that Get need not open it again.
func (d *VirtualDevice) CreateHeld(ctx context.Context, size int64) (*Held, error) {
	if size < ext4.MinSize {
		return nil, fmt.Errorf("%w: size is %d bytes, minimum is %d", ErrBadParams, size, ext4.MinSize)
	}
	size = size / ext4.BlockSize * ext4.BlockSize
	if err := ext4.CheckInodes(d.Inodes, size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadParams, err)
	}
	uid, gid := user.IdentityMapping{UIDMaps: d.Deviceparams.UIDMaps, GIDMaps: d.Deviceparams.GIDMaps}.RootPair()
	mkfs := ext4.Mkfs
	if d.Templates != nil {
		mkfs = d.Templates.Mkfs
	}
	var held *Held
	_, err := d.make(ctx, size, func(f *os.File, h *luks2.Header, key []byte) error {
		var err error
		held, err = d.fillOpen(ctx, f, h, key, func(node *os.File) error {
			return mkfs(ctx, node.Name(), ext4.MkfsOptions{Label: d.fsLabel(), Inodes: d.Inodes, Dirs: []ext4.Dir{
				{Name: DirDiff, Mode: 0o755, UID: uid, GID: gid},
				{Name: DirWork, Mode: 0o700, UID: uid, GID: gid},
			}})
		})
		return err
	})
	if err != nil && held != nil {
		// The last user of the device of an image that is not to be.
		return nil, errors.Join(err, closeDevice(context.WithoutCancel(ctx), held.file, held.uuid))
	}
	return held, err
}

// ImportData makes a sealed image from a layer's tar, which it reads to its end. The
// image file is as long as its content needs.
func (d *VirtualDevice) ImportData(ctx context.Context, diffTar io.Reader) (ImportResult, error) {
	var result ImportResult
	var err error
	result.UUID, err = d.make(ctx, ext4.MaxTarSize, func(f *os.File, h *luks2.Header, key []byte) error {
		var used int64
		held, err := d.fillOpen(ctx, f, h, key, func(node *os.File) error {
			done, err := fill(ctx, node, diffTar, ext4.TarOptions{
				Dir: DirDiff, Label: d.fsLabel(), UIDMaps: d.Deviceparams.UIDMaps, GIDMaps: d.Deviceparams.GIDMaps,
			})
			result.Size, used = done.ContentSize, done.Size
			return err
		})
		if err != nil {
			return err
		}
		if err := closeDevice(context.WithoutCancel(ctx), held.file, held.uuid); err != nil {
			return err
		}
		return f.Truncate(h.Segment().Offset + used)
	})
	if err != nil {
		return ImportResult{}, err
	}
	info, err := os.Stat(d.path())
	if err != nil {
		return ImportResult{}, err
	}
	result.Bytes = info.Size()
	return result, nil
}

// fill writes the file system past the page cache: its blocks are encrypted by the
// goroutines that write them, all processors at once, and are not kept twice.
func fill(ctx context.Context, node *os.File, diffTar io.Reader, o ext4.TarOptions) (ext4.TarResult, error) {
	direct, err := os.OpenFile(node.Name(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		direct = node
	} else {
		defer func() { _ = direct.Close() }()
	}
	return ext4.FromTar(ctx, diffTar, direct, o)
}

func (d *VirtualDevice) fsLabel() string { return d.Name[:min(len(d.Name), labelSize)] }

// make makes an image. fill opens the formatted file, makes a file system in it that is
// on the disk when it returns, and may leave it open.
//
// What a crash leaves, by step:
//
//	file under a temporary name, formatted     that file, SweepDir removes it
//	device attached, file system written       that file, and for moments the device, see attach
//	a sealed one cut to its size, synced,
//	read back                                  that file
//	renamed                                    the image, or the temporary file: one of them
//	directory synced                           the image
func (d *VirtualDevice) make(ctx context.Context, size int64, fill func(f *os.File, h *luks2.Header, key []byte) error) (id string, err error) {
	if err := d.check(); err != nil {
		return "", err
	}
	if _, err := os.Lstat(d.path()); err == nil {
		return "", fmt.Errorf("%s: %w", d.path(), ErrExists)
	}
	temp := &VirtualDevice{Type: d.Type, Key: d.Key, Log: d.Log, Name: d.Name, Cryptparams: d.Cryptparams, Tokens: d.Tokens, Owner: d.Owner}
	file, err := os.CreateTemp(filepath.Dir(d.path()), tempPrefix(d.path())+"*")
	if err != nil {
		return "", d.explain(err)
	}
	temp.Image.ImagePath = file.Name()
	defer func() {
		if err != nil {
			err = d.explain(err)
			// Missing: it got its name, and stays.
			if removeErr := os.Remove(temp.path()); removeErr != nil {
				err = errors.Join(err, ignoreMissing(removeErr))
			} else {
				err = errors.Join(err, giveBack(file))
			}
		}
		_ = file.Close()
	}()
	unlock, err := temp.lock(ctx) // SweepDir leaves locked files alone
	if err != nil {
		return "", err
	}
	defer unlock()

	id = uuid.NewString()
	passphrase, err := d.passphrase(ctx, luks2.Format2, id)
	if err != nil {
		return "", err
	}
	defer clear(passphrase)
	h, key, err := temp.format(file, id, passphrase, size)
	if err != nil {
		return "", err
	}
	defer clear(key)
	if err := fill(file, h, key); err != nil {
		return "", fmt.Errorf("make image %s: %w", d.path(), err)
	}
	if err := file.Sync(); err != nil {
		return "", err
	}
	if err := temp.readBack(h); err != nil {
		return "", fmt.Errorf("new image %s: %w", d.path(), err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := renameNew(temp.path(), d.path()); err != nil {
		return "", err
	}
	return id, durable.SyncPath(filepath.Dir(d.path()))
}

// format makes the file a LUKS2 image that has room for size bytes.
func (d *VirtualDevice) format(f *os.File, id string, passphrase []byte, size int64) (*luks2.Header, []byte, error) {
	h, key, err := luks2.Format(f, luks2.Params{
		UUID:       id,
		Label:      d.Name[:min(len(d.Name), 47)], // what the header holds
		Subsystem:  subsystem,
		Cipher:     d.Cryptparams.Cipher,
		KeySize:    d.Cryptparams.KeySize,
		SectorSize: d.Cryptparams.SectorSize,
		Flags:      []string{luks2.FlagAllowDiscards, luks2.FlagNoReadWorkqueue, luks2.FlagNoWriteWorkqueue},
		Tokens:     d.Tokens,
		Owner:      &d.Owner,
	}, luks2.RandomKeyKDF(), passphrase)
	if err != nil {
		return nil, nil, err
	}
	if err := f.Truncate(h.Segment().Offset + size); err != nil {
		clear(key)
		return nil, nil, err
	}
	return h, key, nil
}

// fillOpen opens the image, lets write fill it, and makes that durable. When it fails
// nothing is left open, even where ctx is done.
func (d *VirtualDevice) fillOpen(ctx context.Context, f *os.File, h *luks2.Header, key []byte, write func(node *os.File) error) (*Held, error) {
	c, err := chainOf(f, h, false)
	if err != nil {
		return nil, err
	}
	node, err := attach(ctx, c, key)
	if err != nil {
		return nil, err
	}
	err = write(node)
	if err == nil {
		err = node.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, closeDevice(context.WithoutCancel(ctx), node, c.uuid))
	}
	return &Held{file: node, node: node.Name(), uuid: c.uuid}, nil
}

// readBack checks that a new image can be opened, before it gets its name.
func (d *VirtualDevice) readBack(h *luks2.Header) error {
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return h.Verify(f)
}

// renameNew renames without replacing: an image that appeared meanwhile stays.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w", to, ErrExists)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		// A file system without RENAME_NOREPLACE: link refuses to replace too.
		if err := os.Link(from, to); errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", to, ErrExists)
		} else if err != nil {
			return err
		}
		return os.Remove(from)
	case err != nil:
		return fmt.Errorf("rename %s: %w", from, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
