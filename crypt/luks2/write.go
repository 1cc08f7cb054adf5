package luks2

import (
	"bytes"
	"crypto/rand"
	"fmt"
)

// change reads the header again, lets edit change the tree, and writes both copies.
// After an error h is unchanged; the file then has the old or the new header.
func (h *Header) change(f File, edit func(doc object) error) error {
	cur, err := h.current(f)
	if err != nil {
		return err
	}
	doc, err := decodeTree(cur.text)
	if err != nil {
		return err
	}
	if err := edit(doc); err != nil {
		return err
	}
	if h.seal != nil {
		if err := h.seal.seal(cur.bin, doc); err != nil {
			return err
		}
	}
	if err := cur.setTree(doc); err != nil {
		return err
	}
	cur.bin.seqID++
	if err := cur.writeCopies(f); err != nil {
		return err
	}
	cur.fresh = h.fresh // a token, say, leaves the key slot that Format wrote as it is
	cur.seal = h.seal
	*h = *cur
	return nil
}

// current reads the header again and checks that it is still the one of h, so that no
// change overwrites a concurrent change.
func (h *Header) current(f File) (*Header, error) {
	if err := h.usable(); err != nil {
		return nil, err
	}
	cur, err := Read(f)
	if err != nil {
		return nil, err
	}
	if cur.bin != h.bin || !bytes.Equal(cur.text, h.text) {
		return nil, fmt.Errorf("%w: sequence number was %d, is now %d", ErrStale, h.bin.seqID, cur.bin.seqID)
	}
	return cur, nil
}

// setTree makes doc the metadata of h, if it is valid and fits.
func (h *Header) setTree(doc object) error {
	text, err := encodeTree(doc)
	if err != nil {
		return err
	}
	// The JSON text needs a NUL after it.
	if room := h.bin.size - binLen - 1; int64(len(text)) > room {
		return fmt.Errorf("%w: JSON has %d bytes, limit is %d", ErrNoRoom, len(text), room)
	}
	again, err := decodeTree(text) // what a reader will see
	if err != nil {
		return err
	}
	meta, err := parseMetadata(again, h.bin.size)
	if err != nil {
		return err
	}
	h.text, h.meta = text, meta
	return nil
}

// writeCopies writes both copies, each on stable storage before the next begins:
//
//	primary, Sync, secondary, Sync          both copies valid before, or the primary bad
//	secondary, Sync, primary, Sync          the secondary was bad
//
// so the copy that is overwritten first is never the only valid one. A crash
//
//   - within the first copy leaves it torn (its checksum is wrong): the other one
//     is valid and holds the old header;
//   - after the first Sync leaves the new header in the first copy and the old one,
//     with a lower sequence number, or a torn one in the other: the new one counts.
//
// Read copes with each; NeedsRepair then says that the copies differ.
func (h *Header) writeCopies(f File) error {
	order := [2]int{0, 1}
	if h.bad[1] != nil {
		order = [2]int{1, 0}
	}
	for _, i := range order {
		if err := h.writeCopy(f, i); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("syncing LUKS2 header: %w", err)
		}
	}
	h.bad = [2]error{}
	return nil
}

// writeCopy writes the primary (0) or secondary (1) copy in one piece. A copy that was
func (h *Header) writeCopy(f File, i int) error {
	if h.bad[i] != nil {
		rand.Read(h.salt[i][:])
	}
	offset := int64(i) * h.bin.size
	raw, err := h.bin.encode(offset, h.salt[i], h.text)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(raw, offset); err != nil {
		return fmt.Errorf("writing LUKS2 header: %w", err)
	}
	return nil
}

// Repair rewrites a bad or older header copy from the good one. It writes nothing if
// both are fine, or if neither is (ErrDamaged). It trusts that the file is meant to be an
// image: where a file system was made over one, the secondary copy may have survived.
func Repair(f File) error {
	h, err := Read(f)
	if err != nil {
		return fmt.Errorf("repairing: %w", err)
	}
	for i, bad := range h.bad {
		if bad == nil {
			continue
		}
		if err := h.writeCopy(f, i); err != nil {
			return fmt.Errorf("repairing %s: %w", h.UUID(), err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("repairing %s: %w", h.UUID(), err)
		}
	}
	return nil
}
