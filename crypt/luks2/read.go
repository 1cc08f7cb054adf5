package luks2

import (
	"bytes"
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

// Read reads both header copies and gives the newest valid one; it writes
// nothing. An image of which one copy is bad is read all the same, see NeedsRepair.
//
// Errors: ErrNotLUKS2, ErrDamaged, or what r returned.
func Read(r io.ReaderAt) (*Header, error) {
	// Nearly every image has copies of 16 KiB, so one read gets both.
	buf := make([]byte, 2*headerSizes[0])
	if err := readSome(r, buf, 0); err != nil {
		return nil, fmt.Errorf("reading LUKS2 header: %w", err)
	}
	primary, errPrimary := readCopy(r, buf, 0)

	var secondary *headerCopy
	var errSecondary error
	if primary != nil {
		secondary, errSecondary = readCopy(r, buf, primary.bin.size)
	} else {
		secondary, errSecondary = findSecondary(r, buf)
	}

	h := &Header{}
	switch {
	case primary == nil && secondary == nil:
		return nil, notFound(buf, errPrimary, errSecondary)
	case primary == nil:
		h.take(secondary, nil, errPrimary)
	case secondary == nil:
		h.take(primary, errSecondary, nil)
	case primary.bin.seqID < secondary.bin.seqID:
		h.take(secondary, nil, fmt.Errorf("is older (%d) than the secondary (%d)", primary.bin.seqID, secondary.bin.seqID))
	case primary.bin.seqID > secondary.bin.seqID:
		h.take(primary, fmt.Errorf("is older (%d) than the primary (%d)", secondary.bin.seqID, primary.bin.seqID), nil)
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
		c, err := readCopy(r, buf, offset)
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

// notFound tells a damaged image from something else.
func notFound(buf []byte, primary, secondary error) error {
	switch {
	case !errors.Is(primary, errNoCopy):
		return fmt.Errorf("%w, in both copies; restore it from a backup: %w", ErrDamaged, primary)
	case secondary != nil:
		return fmt.Errorf("%w, in both copies; restore it from a backup: %w", ErrDamaged, secondary)
	case hasMagic(buf, false) && buf[offVersion] == 0 && buf[offVersion+1] == 1:
		return fmt.Errorf("%w: it is LUKS1", ErrNotLUKS2)
	}
	return ErrNotLUKS2
}

// readCopy reads and checks the copy at the given offset; buf holds the begin of the
// file. The error wraps errNoCopy when there is no LUKS2 magic at all.
func readCopy(r io.ReaderAt, buf []byte, offset int64) (*headerCopy, error) {
	var head [binLen]byte
	if err := readFrom(r, buf, head[:], offset); err != nil {
		return nil, err
	}
	if !hasMagic(head[:], offset != 0) || (offset == 0 && head[offVersion] == 0 && head[offVersion+1] == 1) {
		return nil, fmt.Errorf("%w: offset %d", errNoCopy, offset)
	}
	bin, err := decodeBin(head[:], offset)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, bin.size)
	if err := readFrom(r, buf, raw, offset); err != nil {
		return nil, err
	}
	if err := verifyChecksum(bin.csumAlg, raw); err != nil {
		return nil, err
	}
	text, err := textOf(raw[binLen:])
	if err != nil {
		return nil, err
	}
	doc, err := decodeTree(text)
	if err != nil {
		return nil, err
	}
	meta, err := parseMetadata(doc, bin.size)
	if err != nil {
		return nil, err
	}
	c := &headerCopy{bin: bin, text: text, meta: meta}
	copy(c.salt[:], raw[offSalt:])
	return c, nil
}

// readFrom fills p from buf where buf reaches that far, else from the file.
func readFrom(r io.ReaderAt, buf, p []byte, offset int64) error {
	if end := offset + int64(len(p)); end <= int64(len(buf)) {
		copy(p, buf[offset:end])
		return nil
	}
	return readSome(r, p, offset)
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
	return err
}
