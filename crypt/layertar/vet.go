package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// Vetted is a tar on its way to another unpacker than ours, which would write out the
// holes of sparse entries, however large, and could not be told to stop. It is handed on
// entry by entry: before a sparse one, and when ctx ends, Read fails.
type Vetted struct {
	*io.PipeReader
	done chan struct{}
}

// Vet starts to read r. Close must be called.
func Vet(ctx context.Context, r io.Reader) *Vetted {
	in, out := io.Pipe()
	v := &Vetted{PipeReader: in, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		_ = out.CloseWithError(vet(ctx, r, out)) // nil means EOF; documented to return nil
	}()
	return v
}

// Close ends reading and returns nil. r is not read any more then.
func (v *Vetted) Close() error {
	_ = v.PipeReader.Close() // documented to return nil
	<-v.done
	return nil
}

// vetPiece is how much of a file is handed on at once, in bytes.
const vetPiece = 64 << 10

func vet(ctx context.Context, r io.Reader, w io.Writer) error {
	var held bytes.Buffer // what was read and is not handed on: a header at most, or a piece
	pass := func() error {
		_, err := held.WriteTo(w)
		return errors.Join(err, ctx.Err())
	}
	tr, piece := tar.NewReader(io.TeeReader(r, &held)), make([]byte, vetPiece)
	for {
		h, err := tr.Next()
		switch {
		case err != nil:
			// The end, or what the unpacker will find wrong as well.
			if err := pass(); err != nil {
				return err
			}
			_, err := io.Copy(w, r)
			return err
		case isSparse(h):
			return fmt.Errorf("tar entry %.300q: %w", h.Name, ErrSparse)
		}
		for err == nil {
			if err := pass(); err != nil {
				return err
			}
			_, err = tr.Read(piece)
		}
		if err != io.EOF {
			return err
		}
		if err := pass(); err != nil {
			return err
		}
	}
}
