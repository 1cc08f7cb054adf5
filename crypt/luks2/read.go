package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// headerCopy is one of the two copies as it was found.
type headerCopy struct {
	bin  binHeader
	salt [saltLen]byte
	text []byte
	meta *metadata
}

// Read reads both header copies and returns the newest valid one; it writes nothing.
// One bad copy is no error, see NeedsRepair.
//
// Errors: ErrNotLUKS2, ErrDamaged, or what r returned.
func Read(r io.ReaderAt) (*Header, error) {
	// Nearly every image has copies of 16 KiB, so one read gets both.
	buf := make([]byte, 2*headerSizes[0])
	if err := readSome(r, buf, 0); err != nil {
		buf = nil // perhaps one of the copies can be read
	}
	if buf != nil && isLUKS1(buf) {
		return nil, fmt.Errorf("%w: found LUKS1", ErrNotLUKS2)
	}
	primary, errPrimary := readCopy(r, buf, 0, nil)

	var secondary *headerCopy
	var errSecondary error
	if primary != nil {
		secondary, errSecondary = readCopy(r, buf, primary.bin.size, primary)
	} else {
		secondary, errSecondary = findSecondary(r, buf)
	}

	h := &Header{}
	switch {
	case primary == nil && secondary == nil:
		return nil, notFound(errPrimary, errSecondary)
	case primary == nil:
		h.take(secondary, nil, errPrimary)
	case secondary == nil:
		h.take(primary, errSecondary, nil)
	case primary.bin.seqID < secondary.bin.seqID:
		h.take(secondary, nil, fmt.Errorf("sequence number %d is older than the secondary's %d", primary.bin.seqID, secondary.bin.seqID))
	case primary.bin.seqID > secondary.bin.seqID:
		h.take(primary, fmt.Errorf("sequence number %d is older than the primary's %d", secondary.bin.seqID, primary.bin.seqID), nil)
	case primary.bin != secondary.bin || !bytes.Equal(primary.text, secondary.text):
		h.take(primary, errors.New("differs from the primary"), nil)
	default:
		h.take(primary, nil, nil)
	}
	if primary != nil {
		h.salt[0] = primary.salt
	}
	if secondary != nil {
		h.salt[1] = secondary.salt
	}
	return h, nil
}

func (h *Header) take(c *headerCopy, badSecondary, badPrimary error) {
	h.bin, h.text, h.meta = c.bin, c.text, c.meta
	h.bad = [2]error{badPrimary, badSecondary}
}

// findSecondary looks for a valid secondary copy wherever one may begin. The error
// is nil if there was not even a magic.
func findSecondary(r io.ReaderAt, buf []byte) (*headerCopy, error) {
	var seen error
	for _, offset := range headerSizes {
		c, err := readCopy(r, buf, offset, nil)
		if c != nil {
			return c, nil
		}
		if !errors.Is(err, errNoCopy) {
			seen = err
		}
	}
	return nil, seen
}

var errNoCopy = errors.New("no header copy here")

// notFound distinguishes a damaged image from a file of another format.
func notFound(primary, secondary error) error {
	var failed *readError
	switch {
	case errors.As(primary, &failed), errors.Is(primary, errNoCopy) && errors.As(secondary, &failed):
		return fmt.Errorf("reading LUKS2 header: %w", failed.err)
	case !errors.Is(primary, errNoCopy):
		return fmt.Errorf("%w in both copies: %w", ErrDamaged, primary)
	case secondary != nil:
		return fmt.Errorf("%w in both copies: %w", ErrDamaged, secondary)
	}
	return ErrNotLUKS2
}

// readCopy reads and checks the copy at the given offset; buf holds the begin of the
// file. twin is the other copy if that was read already: equal JSON is not parsed a
// second time. The error wraps errNoCopy when there is no LUKS2 magic at all.
func readCopy(r io.ReaderAt, buf []byte, offset int64, twin *headerCopy) (*headerCopy, error) {
	head, err := readVia(r, buf, offset, binLen)
	if err != nil {
		return nil, err
	}
	if !hasMagic(head, offset != 0) {
		return nil, fmt.Errorf("%w: offset %d", errNoCopy, offset)
	}
	bin, err := decodeBin(head, offset)
	if err != nil {
		return nil, err
	}
	raw, err := readVia(r, buf, offset, bin.size)
	if err != nil {
		return nil, err
	}
	if err := verifyChecksum(bin.csumAlg, raw); err != nil {
		return nil, err
	}
	text, err := textOf(raw[binLen:])
	if err != nil {
		return nil, err
	}
	c := &headerCopy{bin: bin}
	copy(c.salt[:], raw[offSalt:])
	if twin != nil && bin.size == twin.bin.size && bytes.Equal(text, twin.text) {
		c.text, c.meta = twin.text, twin.meta
		return c, nil
	}
	doc, err := decodeTree(text)
	if err != nil {
		return nil, err
	}
	if c.meta, err = parseMetadata(doc, bin.size); err != nil {
		return nil, err
	}
	c.text = bytes.Clone(text) // so that it does not keep the whole copy in memory
	return c, nil
}

// isLUKS1: LUKS1 has the same magic as a LUKS2 primary copy. A secondary copy in such
// an image is a leftover of an earlier format.
func isLUKS1(head []byte) bool {
	return hasMagic(head, false) && binary.BigEndian.Uint16(head[offVersion:]) == 1
}

// readVia returns n bytes of the file, from buf where buf covers them.
func readVia(r io.ReaderAt, buf []byte, offset, n int64) ([]byte, error) {
	if end := offset + n; end <= int64(len(buf)) {
		return buf[offset:end], nil
	}
	p := make([]byte, n)
	return p, readSome(r, p, offset)
}

// readSome reads p, with zeros for what lies beyond the end of the file: a short
// file then simply holds no header there.
func readSome(r io.ReaderAt, p []byte, offset int64) error {
	n, err := r.ReadAt(p, offset)
	if err == nil || n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return &readError{err}
}

// readError is a failure of the medium, which says nothing about the header.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }
