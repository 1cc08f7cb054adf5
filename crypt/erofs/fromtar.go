package erofs

import (
	"context"
	"io"
	"time"

	"layervault/crypt/fswriter"
	"layervault/crypt/layertar"
)

// FromTar writes an image layer's tar as an EROFS file system to dst, below the directory
// o.Dir. It is to EROFS what ext4.FromTar is to ext4, with the same conversions, limits
// and errors. The file system has one time for each file, that of its content.
//
// dst must be an io.ReaderAt where there are hard links, and where there are more than
// 100,000 files.
func FromTar(ctx context.Context, r io.Reader, dst io.WriterAt, o layertar.Options) (layertar.Result, error) {
	now := time.Now()
	w := New(ctx, dst, fswriter.Options{Label: o.Label, Now: now, Heap: o.Heap})
	return layertar.Write(ctx, r, w, o, now)
}
