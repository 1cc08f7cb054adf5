package layer

import (
	"errors"
	"fmt"
	"io"
)

// TarStream watches a tar go by and says whether it was whole.
//
// What the stream itself cannot show is no fault here: an archive without the blocks of
// zeros at its end is one that other tools write and docker takes, and so is a stream of
// no bytes. Whether such a one lacks its end, its digest says, which dockerd checks. A
// connection that broke shows in the stream (a chunked body has an end of its own), and
// an archive that ends within an entry in the parser.
type TarStream struct {
	in   io.Reader
	read int64 // bytes so far
	err  error // how the stream ended, nil while it has not
}

// NewTarStream watches in.
func NewTarStream(in io.Reader) *TarStream { return &TarStream{in: in} }

func (t *TarStream) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.in.Read(p)
	t.read += int64(n)
	t.err = err
	return n, err
}

// Finish reads what the parser left and judges the whole stream.
func (t *TarStream) Finish() error {
	_, err := io.Copy(io.Discard, t)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w after %d bytes: %w", ErrCutOff, t.read, err)
	case err != nil:
		return fmt.Errorf("read the layer tar after %d bytes: %w", t.read, err)
	}
	return nil
}
