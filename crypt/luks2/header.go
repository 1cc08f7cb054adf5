package luks2

import (
	"fmt"
	"io"
	"slices"
	"strconv"
)

// File is what an update needs: an *os.File opened for reading and writing. Sync must
// not return before all written data is on stable storage.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Header is one version of a LUKS2 header, as Read found it or as the last change
// through this value left it. It holds no secret. Reading from it, Unlock
// included, is safe from several goroutines; changing it is not.
type Header struct {
	bin  binHeader
	salt [2][saltLen]byte // of the primary and the secondary copy
	text []byte           // the JSON as it is on disk
	meta *metadata
	bad  [2]error // why the primary or the secondary copy must be rewritten

	// seal, when set, renews the token of a format 2 image at each change.
	seal *sealing

	// fresh is the key slot that Format wrote, for Verify.
	fresh struct {
		slot keyslot
		sum  uint32 // CRC-32C of its area
	}
}

// Segment is the encrypted data: what a dm-crypt table needs.
type Segment struct {
	Offset     int64  // where the data begins in the file, in bytes
	Size       int64  // in bytes; 0: up to the end of the file
	Cipher     string // in dm-crypt's notation, such as aes-xts-plain64
	KeySize    int    // of the volume key, in bytes; 0 if no key slot is left
	SectorSize int    // in bytes
	IVTweak    uint64 // the IV number of the first sector, in 512 byte units
}

// Slot describes one key slot.
type Slot struct {
	ID       int
	Type     string // "luks2"; "reencrypt" and others are only listed
	Priority int    // 0: only opened when asked for by number, 1: normal, 2: tried first
	KDF      KDF
	Cipher   string // what encrypts the key slot's area
	Offset   int64  // of the area, in bytes
	Size     int64  // of the area, in bytes
	Bound    bool   // holds the key of the data (not some other key)
}

// UUID is the image's UUID in text form.
func (h *Header) UUID() string { return h.bin.uuid }

// Label is the image's label, "" if it has none.
func (h *Header) Label() string { return h.bin.label }

// Subsystem is the name of the program the image belongs to, "" if none is set.
func (h *Header) Subsystem() string { return h.bin.subsystem }

// MetadataSize is the size of one header copy in bytes; there are two.
func (h *Header) MetadataSize() int64 { return h.bin.size }

// Flags are the persistent activation flags, in LUKS2's spelling.
func (h *Header) Flags() []string { return slices.Clone(h.meta.flags) }

// NeedsRepair tells whether one of the two copies is damaged or older than the
// other. Repair, or any change, rewrites it.
func (h *Header) NeedsRepair() bool { return h.bad[0] != nil || h.bad[1] != nil }

// Damage says what is wrong with the copies, nil if both are fine.
func (h *Header) Damage() error {
	switch {
	case h.bad[0] != nil:
		return fmt.Errorf("primary header copy: %w", h.bad[0])
	case h.bad[1] != nil:
		return fmt.Errorf("secondary header copy: %w", h.bad[1])
	}
	return nil
}

// Segment gives the data segment.
func (h *Header) Segment() Segment {
	s := h.meta.segments[0]
	out := Segment{Offset: s.offset, Size: s.size, Cipher: s.cipher, SectorSize: s.sectorSize, IVTweak: s.ivTweak}
	for _, k := range h.meta.slots {
		if _, bound := h.meta.digestOf(k.id); bound && k.typ == "luks2" {
			out.KeySize = k.keySize
			break
		}
	}
	return out
}

// Slots lists the key slots by number.
func (h *Header) Slots() []Slot {
	out := make([]Slot, 0, len(h.meta.slots))
	for _, k := range h.meta.slots {
		_, bound := h.meta.digestOf(k.id)
		out = append(out, Slot{
			ID: k.id, Type: k.typ, Priority: k.priority, KDF: k.kdf, Cipher: k.areaCipher,
			Offset: k.areaOffset, Size: k.areaSize, Bound: bound && k.typ == "luks2",
		})
	}
	return out
}

// usable refuses what this package must not open or change, because it would
// misread it: requirements, and data that is not one plain crypt segment.
func (h *Header) usable() error {
	if len(h.meta.requirements) > 0 {
		return &UnsupportedError{What: fmt.Sprintf("mandatory requirement %q", h.meta.requirements[0])}
	}
	if n := len(h.meta.segments); n != 1 {
		return &UnsupportedError{What: strconv.Itoa(n) + " data segments"}
	}
	switch s := h.meta.segments[0]; {
	case s.typ != "crypt":
		return &UnsupportedError{What: fmt.Sprintf("segment type %q", s.typ)}
	case s.integrity:
		return &UnsupportedError{What: "data integrity (dm-integrity)"}
	case s.offset == 0:
		return &UnsupportedError{What: "a detached header"}
	}
	return nil
}
