package ext4

import (
	"context"
	"io"
	"time"

	"layervault/crypt/ext4/image"
	"layervault/crypt/fswriter"
	"layervault/crypt/layertar"
)

// MaxTarSize is how much of dst FromTar uses while it writes, in bytes. The file system
// is at most 1 GiB smaller.
const MaxTarSize = fswriter.DeviceSize

// TarOptions of FromTar.
type TarOptions = layertar.Options

// Heap lends Go's heap to one import at a time. The zero value is ready.
type Heap = fswriter.Heap

// TarResult says what FromTar wrote.
type TarResult = layertar.Result

// Vetted is a tar on its way to another unpacker than FromTar.
type Vetted = layertar.Vetted

// Vet starts to read r. Close must be called.
func Vet(ctx context.Context, r io.Reader) *Vetted { return layertar.Vet(ctx, r) }

// FromTar writes an image layer's tar as a read-only ext4 file system to dst, below
// the directory o.Dir. It reads r to its end, padding after the archive included,
// and does not sync dst. dst is written in whole pages from page aligned memory, from
// several goroutines, none of which is left when FromTar returns.
//
// Whiteouts are converted to overlayfs's; see package layertar for the other conversions. A stream
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
	return layertar.Write(ctx, r, w, o, now)
}
