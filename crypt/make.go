package crypt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Params chooses how an image is encrypted when it is made. Zero values mean the defaults
// of luks2.Params: aes-xts-plain64, 64 bytes, 4096.
type Params struct {
	Cipher     string // in dm-crypt's notation, for example "aes-cbc-essiv:sha256"
	KeySize    int    // bytes of volume key
	SectorSize int    // bytes: 512, 1024, 2048 or 4096
}

// Making says how a new image is made. Zero values mean the defaults.
type Making struct {
	Params Params
	// IDMap gives the host's owners of the files; empty for none.
	IDMap user.IdentityMapping
	// Tokens are the LUKS2 tokens: JSON objects with "type" and "keyslots", which this
	// package does not interpret.
	Tokens []json.RawMessage
	// FileSystem is that of a sealed image: "" for EROFS where this kernel has it, else ext4.
	FileSystem FileSystem
	// Literal takes the tar of a sealed image literally, see layertar.Options: it is one that
	// treetar.Exact wrote.
	Literal bool
	// Inodes is how many files a writable image has room for, see ext4.CheckInodes; 0 for
	// as many as its size asks for.
	Inodes int64
	// Templates, shared by many images, saves Create from running mke2fs each time; may be
	// nil.
	Templates *Templates
	// Heap, shared by many images, bounds the memory of imports at the same time; may be nil.
	Heap *ext4.Heap
}

// Templates remembers empty file systems; see ext4.Templates. The zero value is ready.
type Templates = ext4.Templates

// Create makes a writable image of size bytes (the file system's size): a sparse file with
// an ext4 file system that has DirDiff and DirWork. Very little of it is on disk. ErrExists
// if the file is there.
func (im *Image) Create(ctx context.Context, size int64, m Making) error {
	held, err := im.CreateHeld(ctx, size, m)
	if err != nil {
		return err
	}
	// The device is gone on return, because Mount cannot use a device in removal.
	return closeDevice(context.WithoutCancel(ctx), held.file, held.uuid)
}

// CreateHeld is Create for an image that is about to be used: its device stays open
// until the result is closed, so that Mount need not open it again.
func (im *Image) CreateHeld(ctx context.Context, size int64, m Making) (*Held, error) {
	if size < ext4.MinSize {
		return nil, fmt.Errorf("%w: size is %d bytes, minimum is %d", ErrBadParams, size, ext4.MinSize)
	}
	size = size / ext4.BlockSize * ext4.BlockSize
	if err := ext4.CheckInodes(m.Inodes, size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadParams, err)
	}
	uid, gid := m.IDMap.RootPair()
	mkfs := ext4.Mkfs
	if m.Templates != nil {
		mkfs = m.Templates.Mkfs
	}
	var held *Held
	_, err := im.make(ctx, size, m, func(n unfinished) error {
		var err error
		held, err = im.fillOpen(ctx, n, func(node *os.File) error {
			return mkfs(ctx, node.Name(), ext4.MkfsOptions{Label: im.fsLabel(), Inodes: m.Inodes, Dirs: []ext4.Dir{
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

// unfinished is an image that is being made.
type unfinished struct {
	file       *os.File
	header     *luks2.Header
	passphrase []byte
	key        []byte
}

func (im *Image) fsLabel() string { return im.Label[:min(len(im.Label), labelSize)] }

// make makes an image. fill opens the formatted file, makes a file system in it that is
// on the disk when it returns, and may leave it open.
//
// What a crash leaves, by step:
//
//	file under a temporary name, formatted     that file, SweepDir removes it
//	device attached, file system written       that file, and for moments the device, see attach
//	a sealed one's hash tree in its header,
//	cut to its size, synced, read back         that file
//	renamed                                    the image, or the temporary file: one of them
//	directory synced                           the image
func (im *Image) make(ctx context.Context, size int64, m Making, fill func(unfinished) error) (id string, err error) {
	if err := im.mayMake(); err != nil {
		return "", err
	}
	temp := *im
	file, err := os.CreateTemp(filepath.Dir(im.Path), tempPrefix(im.Path)+"*")
	if err != nil {
		return "", im.explain(err)
	}
	temp.Path = file.Name()
	defer func() {
		if err != nil {
			err = im.explain(err)
			// Missing: it got its name, and stays.
			if removeErr := os.Remove(temp.Path); removeErr != nil {
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
	passphrase, err := im.passphrase(ctx, luks2.Format2, id)
	if err != nil {
		return "", err
	}
	defer clear(passphrase)
	h, key, err := im.format(file, id, passphrase, size, m)
	if err != nil {
		return "", err
	}
	defer clear(key)
	if err := fill(unfinished{file, h, passphrase, key}); err != nil {
		return "", fmt.Errorf("make image %s: %w", im.Path, err)
	}
	if err := file.Sync(); err != nil {
		return "", err
	}
	if err := temp.readBack(h); err != nil {
		return "", fmt.Errorf("new image %s: %w", im.Path, err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := renameNew(temp.Path, im.Path); err != nil {
		return "", err
	}
	return id, durable.SyncPath(filepath.Dir(im.Path))
}

// mayMake refuses an image that could not get its name.
func (im *Image) mayMake() error {
	if err := im.check(); err != nil {
		return err
	}
	if _, err := os.Lstat(im.Path); err == nil {
		return fmt.Errorf("%s: %w", im.Path, ErrExists)
	}
	return nil
}

// format makes the file a LUKS2 image that has room for size bytes.
func (im *Image) format(f *os.File, id string, passphrase []byte, size int64, m Making) (*luks2.Header, []byte, error) {
	h, key, err := luks2.Format(f, luks2.Params{
		UUID:       id,
		Label:      im.Label[:min(len(im.Label), 47)], // what the header holds
		Subsystem:  subsystem,
		Cipher:     m.Params.Cipher,
		KeySize:    m.Params.KeySize,
		SectorSize: m.Params.SectorSize,
		Flags:      []string{luks2.FlagAllowDiscards, luks2.FlagNoReadWorkqueue, luks2.FlagNoWriteWorkqueue},
		Tokens:     m.Tokens,
		Owner:      &im.Owner,
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
func (im *Image) fillOpen(ctx context.Context, n unfinished, write func(node *os.File) error) (*Held, error) {
	c, err := chainOf(n.file, n.header, false)
	if err != nil {
		return nil, err
	}
	node, err := attach(ctx, c, n.key)
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
	return &Held{file: node, node: node.Name(), uuid: c.uuid, fs: Ext4}, nil
}

// readBack checks that a new image can be opened, before it gets its name.
func (im *Image) readBack(h *luks2.Header) error {
	f, err := im.open(os.O_RDONLY)
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
