package layer

import (
	"errors"
	"fmt"
	"io"
)

// tarBlock is the unit of a tar. POSIX ends an archive with two zero blocks; one
// is accepted, as every reader does, but none means that the sender was cut off
// between two entries, which no parser can tell from a short archive.
const tarBlock = 512

// TarStream watches a tar go by and says whether it was whole.
type TarStream struct {
	in    io.Reader
	read  int64 // bytes so far
	zeros int64 // length of the run of zero bytes up to here
	err   error // how the stream ended, nil while it has not
}

// NewTarStream watches in.
func NewTarStream(in io.Reader) *TarStream { return &TarStream{in: in} }

func (t *TarStream) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.in.Read(p)
	t.read += int64(n)
	run := n
	for run > 0 && p[run-1] == 0 {
		run--
	}
	if run == 0 {
		t.zeros += int64(n)
	} else {
		t.zeros = int64(n - run)
	}
	t.err = err
	return n, err
}

// Finish reads what the parser left and judges the whole stream.
func (t *TarStream) Finish() error {
	if _, err := io.Copy(io.Discard, t); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w after %d bytes: %w", ErrCutOff, t.read, err)
		}
		return fmt.Errorf("read the layer tar after %d bytes: %w", t.read, err)
	}
	switch {
	case t.read == 0:
		return fmt.Errorf("%w: it has no bytes at all (an empty layer has 1024)", ErrCutOff)
	case t.zeros < tarBlock:
		return fmt.Errorf("%w after %d bytes: no end-of-archive marker", ErrCutOff, t.read)
	}
	return nil
}
