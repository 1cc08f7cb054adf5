package crypt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/verity"
)

// Verification is what Verify read of an image.
type Verification struct {
	UUID       string // LUKS2 UUID
	FileSystem FileSystem
	Bytes      int64 // size of the file system and of the hash tree
	// Compared: the image has a hash tree, and all bytes were compared with it. Else they were only
	// read: nothing says what they must be.
	Compared bool
}

// maxBad is how many bad blocks of an image are listed: more of them call for nothing else.
const maxBad = 64

// Verify reads all of a sealed image from the disk, past the kernel's caches and its own check, and
// compares each block of the file system and of the hash tree. progress, if not nil, gets the
// bytes that are done, of all. The image may be mounted, and be opened and closed meanwhile.
//
// Errors: a *CorruptError with the blocks that are not what they were; ErrUnreadable; those of a
// header that is not authentic; the context's. An image that another program may write to is
// ErrInUse. The Verification says what was to be read with an error too, where that was known.
func (im *Image) Verify(ctx context.Context, progress func(done, total int64)) (result Verification, err error) {
	if err := im.check(); err != nil {
		return result, err
	}
	if !im.ReadOnly {
		return result, fmt.Errorf("%w: image %s is writable: it has no content to be held against", ErrBadParams, im.Path)
	}
	v, err := im.verified(ctx, os.O_RDONLY)
	if err != nil {
		return result, err
	}
	defer v.close()
	if err := im.unlock(ctx, v); err != nil {
		return result, err
	}
	c, err := chainOf(v.file, v.header, true)
	if err != nil {
		return result, err
	}
	result = Verification{UUID: c.uuid, FileSystem: v.content.fs, Bytes: c.size}
	if tree := v.content.tree; tree != nil {
		if err := checkTree(*tree, c.size); err != nil {
			return result, fmt.Errorf("image %s: %w", im.Path, err)
		}
		result.Bytes, result.Compared = tree.End(), true
	}
	node, name, err := im.attachAside(ctx, c, v.key)
	if err != nil {
		return result, fmt.Errorf("open image %s: %w", im.Path, err)
	}
	defer func() {
		// It goes by itself when its last user does, udev's blkid for example.
		if err := closeNamed(context.WithoutCancel(ctx), node, name); err != nil {
			im.log().Warn("the device of a verification is still open", "device", name, "error", err)
		}
	}()
	if !result.Compared {
		if err := im.fresh(ctx, node, v.content.fs, c.size); err != nil {
			return result, err
		}
	}
	direct, err := os.OpenFile(node.Name(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		direct = node
	} else {
		defer func() { _ = direct.Close() }()
	}
	r := &counted{r: direct, total: result.Bytes, progress: progress}
	if err := readAll(ctx, r, v.content.tree, result.Bytes); err != nil {
		return result, fmt.Errorf("image %s: %w", im.Path, err)
	}
	return result, nil
}

// readAll reads size bytes and compares them with a tree, if there is one.
func readAll(ctx context.Context, r io.ReaderAt, tree *verity.Tree, size int64) error {
	var err error
	if tree != nil {
		err = verity.Verify(ctx, r, *tree, verity.Checking{MaxBad: maxBad})
	} else {
		err = readBytes(ctx, r, size)
	}
	// What the kernel says of a disk that cannot read, or whose own checks fail.
	for _, bad := range []error{unix.EIO, unix.ENODATA, unix.EREMOTEIO, unix.EILSEQ} {
		if errors.Is(err, bad) {
			return fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
	}
	return err
}

// readChunk is how much is read at a time, in bytes.
const readChunk = 1 << 20

func readBytes(ctx context.Context, r io.ReaderAt, size int64) error {
	// Whole pages of memory, as direct I/O wants.
	b, err := unix.Mmap(-1, 0, readChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("memory to read an image: %w", err)
	}
	defer func() { _ = unix.Munmap(b) }()
	defer clear(b)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := min(readChunk, size-at)
		n, err := r.ReadAt(b[:want], at)
		if int64(n) < want {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d bytes from byte %d on: %w", want, at, err)
		}
		at += want
	}
	return nil
}

// counted tells of the bytes that were read. Each byte is read once.
type counted struct {
	r           io.ReaderAt
	done, total int64
	progress    func(done, total int64) // nil for none
}

func (c *counted) ReadAt(b []byte, at int64) (int, error) {
	n, err := c.r.ReadAt(b, at)
	c.done += int64(n)
	if c.progress != nil && n > 0 {
		c.progress(c.done, c.total)
	}
	return n, err
}
