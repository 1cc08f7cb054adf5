package ext4

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/sys/user"

	"layervault/crypt/ext4/image"
)

// MaxTarSize is how much of dst FromTar uses while it writes, in bytes. The file system
// is at most 1 GiB smaller.
const MaxTarSize = image.DeviceSize

// TarOptions of FromTar.
type TarOptions struct {
	// Dir is the directory at the root of the file system that receives the content.
	Dir     string
	Label   string       // of the file system, at most 16 bytes
	UIDMaps []user.IDMap // container to host, nil for none
	GIDMaps []user.IDMap
	// Heap, shared by many imports, makes one of them at a time faster; may be nil, if there
	// is only one.
	Heap *Heap
}

// Heap lends Go's heap to one import at a time. The zero value is ready.
type Heap = image.Heap

// TarResult says what FromTar wrote.
type TarResult struct {
	// ContentSize sums the files' sizes: each file once however many names it has,
	// symbolic links by the length of their target, directories not at all.
	ContentSize int64
	Size        int64 // bytes of dst that the file system takes
}

// FromTar writes an image layer's tar as a read-only ext4 file system to dst, below
// the directory o.Dir. It reads r to its end, padding after the archive included,
// and does not sync dst. dst is written in whole pages from page aligned memory, from
// several goroutines, none of which is left when FromTar returns.
//
// Whiteouts are converted to overlayfs's; see layer for the other conversions. A stream
// that ends within an entry is io.ErrUnexpectedEOF. A stream that ends between two
// entries is complete, with or without the two blocks of zeros, and so is an empty
// stream, as for docker: archives without the end mark exist, and only the holder of
// their digest can check that they are complete.
//
// The tar is not trusted. It takes less than 96 MiB of memory whatever it holds, and a
// *LimitError names the bound that it exceeds. Where there are more than 50,000 files dst
// must be an io.ReaderAt as well. When ctx ends, so does FromTar, even while it waits for
// r: then a last Read of r may still be under way.
func FromTar(ctx context.Context, r io.Reader, dst io.WriterAt, o TarOptions) (result TarResult, err error) {
	now := time.Now()
	w := image.New(ctx, dst, image.Options{Label: o.Label, Now: now, Heap: o.Heap})
	defer w.Abort()
	l, err := newLayer(w, o, now)
	if err != nil {
		return TarResult{}, err
	}
	ahead := readAhead(ctx, r)
	defer ahead.stop(ctx)
	if err := l.read(ahead); err != nil {
		return TarResult{}, err
	}
	result.ContentSize = w.ContentSize()
	result.Size, err = w.Close()
	return result, err
}

// tarBlock is the unit of a tar in bytes.
const tarBlock = 512

// read takes the archive apart.
func (l *layer) read(r *aheadReader) error {
	tr := tar.NewReader(r)
	last := "" // for errors: where in the archive we are
	for {
		// The next header, or the mark of the end, begins on the next block.
		r.mark((r.count + tarBlock - 1) / tarBlock * tarBlock)
		h, err := tr.Next()
		switch {
		case err == io.EOF && !r.onlyZeros():
			// Package tar takes an archive for complete that ends between the two headers of an
			// entry.
			return fmt.Errorf("tar entry after %.300q: %w", last, io.ErrUnexpectedEOF)
		case err == io.EOF:
			// Padding: the sender blocks until it is read.
			_, err := io.Copy(io.Discard, r)
			return err
		case errors.Is(err, tar.ErrHeader):
			return fmt.Errorf("tar entry after %.300q: %w: %w", last, ErrBadTar, err)
		case err != nil:
			return fmt.Errorf("tar entry after %.300q: %w", last, err)
		}
		if err := l.add(h, tr); err != nil {
			return fmt.Errorf("tar entry %.300q: %w", h.Name, err)
		}
		// What add did not read is skipped here, so that count is at the entry's end.
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return fmt.Errorf("tar entry %.300q: %w", h.Name, err)
		}
		last = h.Name
	}
}
