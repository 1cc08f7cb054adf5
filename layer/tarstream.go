package layer

import (
	"errors"
	"fmt"
	"io"
)

// TarStream passes a tar through and reports whether the stream was complete.
//
// Defects that the stream cannot show are no error: archives without the end blocks of
// zeros are common and accepted by docker, and so is an empty stream. dockerd checks
// their completeness by digest. A lost connection shows in the stream (a chunked body
// has an end mark), and an archive that ends within an entry in the parser.
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
