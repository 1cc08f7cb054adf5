package luks2

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// castagnoli is the CRC that processors compute by themselves: against what storage
// does to bytes, as disks use it, not against people.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Verify reads back what Format, which h must come from, wrote to this image: both
// header copies and the key slot, byte for byte. It is what Unlock would find out, for
// the price of reading.
//
// Errors: ErrDamaged where something else is read than was written; or what r returned.
func (h *Header) Verify(r io.ReaderAt) error {
	if err := h.verify(r); err != nil {
		return fmt.Errorf("reading back the new header %s: %w", h.UUID(), err)
	}
	return nil
}

func (h *Header) verify(r io.ReaderAt) error {
	k := h.fresh.slot
	if k.typ == "" {
		return errors.New("header was not formatted by this process")
	}
	got, err := Read(r)
	if err != nil {
		return err
	}
	if err := got.Damage(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if got.bin != h.bin || got.salt != h.salt || !bytes.Equal(got.text, h.text) {
		return fmt.Errorf("%w: found another header, %s", ErrDamaged, got.UUID())
	}
	area := make([]byte, afSize(k.keySize))
	if _, err := r.ReadAt(area, k.areaOffset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if crc32.Checksum(area, castagnoli) != h.fresh.sum {
		return fmt.Errorf("%w: key slot %d", ErrDamaged, k.id)
	}
	return nil
}
