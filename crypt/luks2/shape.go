package luks2

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"
)

// CheckOwn checks a header against the fixed list of values allowed in a layervault image,
// whether or not the header is authenticated: the data ciphers and key sizes that Format
// makes, sectors of 512 to 4096 bytes, IVs from 0, data from 1 MiB to the end of the file,
// no segment flags, header copies of 16 KiB, a UUID in lower case. The dm-crypt table is
// built from these values alone.
//
// Key slots of other programs are not checked here: UnlockOwn skips them.
//
// Errors: a *HeaderError with ErrForbidden; ErrUnsupported for requirements, such as those
// of a reencryption under way, and for data that is not one plain crypt segment.
func (h *Header) CheckOwn() error {
	if err := h.usable(); err != nil {
		return fmt.Errorf("header of %s: %w", h.UUID(), err)
	}
	if fields := h.forbidden(); len(fields) > 0 {
		return fmt.Errorf("header of %s: %w", h.UUID(), &HeaderError{UUID: h.UUID(), Fields: fields, Reason: ErrForbidden})
	}
	return nil
}

// forbidden lists the fields whose values are not on the list.
func (h *Header) forbidden() []Change {
	var out []Change
	want := func(ok bool, field, what, now string) {
		if !ok {
			out = append(out, Change{Field: field, What: "must be " + what, Now: now})
		}
	}
	id, err := uuid.Parse(h.bin.uuid)
	want(err == nil && id.String() == h.bin.uuid, "uuid", "a UUID in lower case", strconv.Quote(h.bin.uuid))
	want(h.bin.size == DefaultMetadataSize, "metadata_size", strconv.Itoa(DefaultMetadataSize), strconv.FormatInt(h.bin.size, 10))

	s := h.meta.segments[0]
	at := func(field string) string { return "segments." + strconv.Itoa(s.id) + "." + field }
	sizes, known := cipherKeySizes[s.cipher]
	want(known, at("encryption"), fmt.Sprintf("one of %q", OwnCiphers()), strconv.Quote(s.cipher))
	want(slices.Contains(sectorSizes, s.sectorSize), at("sector_size"), fmt.Sprintf("one of %d", sectorSizes), strconv.Itoa(s.sectorSize))
	want(s.ivTweak == 0, at("iv_tweak"), "0", strconv.FormatUint(s.ivTweak, 10))
	want(s.offset == DefaultDataOffset, at("offset"), strconv.Itoa(DefaultDataOffset), strconv.FormatInt(s.offset, 10))
	want(s.size == 0, at("size"), "dynamic", strconv.FormatInt(s.size, 10))
	want(len(s.flags) == 0, at("flags"), "empty", fmt.Sprintf("%q", s.flags))
	for _, k := range h.meta.slots {
		if _, bound := h.meta.digestOf(k.id); known && bound && k.typ == "luks2" {
			want(slices.Contains(sizes, k.keySize), fmt.Sprintf("keyslots.%d.key_size", k.id), fmt.Sprintf("one of %d", sizes), strconv.Itoa(k.keySize))
		}
	}
	return out
}

// sectorSizes are those that dm-crypt knows, in bytes.
var sectorSizes = []int{512, 1024, 2048, 4096}

// OwnCiphers are the data ciphers of layervault images, in dm-crypt's notation.
func OwnCiphers() []string { return []string{CipherXTS, CipherESSIV, CipherAdiantum} }
