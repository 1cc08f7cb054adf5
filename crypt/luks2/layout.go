package luks2

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // images of others may use it in their KDF; ours never do
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
)

// The binary header (LUKS2 On-Disk Format Specification 1.1, section 2.2). All
// integers are big endian, all strings end with a NUL.
const (
	binLen = 4096 // the binary header; the JSON area follows it

	offMagic     = 0   // 6 bytes
	offVersion   = 6   // uint16, 2
	offHdrSize   = 8   // uint64, binary header + JSON area, in bytes
	offSeqID     = 16  // uint64, grows with every update
	offLabel     = 24  // 48 bytes
	offCsumAlg   = 72  // 32 bytes
	offSalt      = 104 // 64 bytes, random, differs between the copies
	offUUID      = 168 // 40 bytes
	offSubsystem = 208 // 48 bytes
	offHdrOffset = 256 // uint64, where this copy lies, in bytes
	offCsum      = 448 // 64 bytes, computed with this field zero

	labelLen   = 48
	csumAlgLen = 32
	saltLen    = 64
	uuidLen    = 40
	csumLen    = 64
)

const (
	magicPrimary   = "LUKS\xba\xbe"
	magicSecondary = "SKUL\xba\xbe"
)

// headerSizes are the sizes one header copy may have: powers of two from 16 KiB
// to 4 MiB. They are also where a secondary copy may begin, so they are where to
// look for it when the primary is gone.
var headerSizes = [...]int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

func validHeaderSize(n int64) bool {
	for _, s := range headerSizes {
		if n == s {
			return true
		}
	}
	return false
}

// binHeader is the part of the binary header that both copies share.
type binHeader struct {
	size                   int64 // one copy with its JSON area, in bytes
	seqID                  uint64
	label, subsystem, uuid string
	csumAlg                string
}

// newHash gives the hash of a LUKS name, nil when it is not known here.
func newHash(name string) func() hash.Hash {
	switch name {
	case "sha1":
		return sha1.New
	case "sha224":
		return sha256.New224
	case "sha256":
		return sha256.New
	case "sha384":
		return sha512.New384
	case "sha512":
		return sha512.New
	}
	return nil
}

// checksum hashes one whole header copy as if its checksum field were zero.
func checksum(alg string, raw []byte) ([]byte, error) {
	mk := newHash(alg)
	if mk == nil {
		return nil, &UnsupportedError{What: fmt.Sprintf("header checksum algorithm %q", alg)}
	}
	var zero [csumLen]byte
	h := mk()
	h.Write(raw[:offCsum])
	h.Write(zero[:])
	h.Write(raw[offCsum+csumLen:])
	return h.Sum(nil), nil
}

// hasMagic tells whether raw begins as a header copy at that position would.
func hasMagic(raw []byte, secondary bool) bool {
	magic := magicPrimary
	if secondary {
		magic = magicSecondary
	}
	return bytes.HasPrefix(raw, []byte(magic))
}

// decodeBin reads the fixed fields of a copy that lies at the given offset. It
// trusts nothing: the checksum can only be verified once the size is known, so
// the size must be one of headerSizes before anything of that size is read.
func decodeBin(raw []byte, offset int64) (binHeader, error) {
	if !hasMagic(raw, offset != 0) {
		return binHeader{}, fmt.Errorf("no LUKS2 magic at offset %d", offset)
	}
	if v := binary.BigEndian.Uint16(raw[offVersion:]); v != 2 {
		return binHeader{}, fmt.Errorf("LUKS version %d, want 2", v)
	}
	size := binary.BigEndian.Uint64(raw[offHdrSize:])
	if size > uint64(headerSizes[len(headerSizes)-1]) || !validHeaderSize(int64(size)) {
		return binHeader{}, fmt.Errorf("header size %d is not one of %d", size, headerSizes)
	}
	if at := binary.BigEndian.Uint64(raw[offHdrOffset:]); at != uint64(offset) {
		return binHeader{}, fmt.Errorf("header at offset %d records offset %d", offset, at)
	}
	if offset != 0 && uint64(offset) != size {
		return binHeader{}, fmt.Errorf("secondary header at offset %d, expected at %d", offset, size)
	}
	return binHeader{
		size:      int64(size),
		seqID:     binary.BigEndian.Uint64(raw[offSeqID:]),
		label:     cString(raw[offLabel:][:labelLen]),
		subsystem: cString(raw[offSubsystem:][:labelLen]),
		uuid:      cString(raw[offUUID:][:uuidLen]),
		csumAlg:   cString(raw[offCsumAlg:][:csumAlgLen]),
	}, nil
}

// verifyChecksum compares the stored checksum of one whole copy.
func verifyChecksum(alg string, raw []byte) error {
	sum, err := checksum(alg, raw)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(sum, raw[offCsum:][:len(sum)]) != 1 {
		return fmt.Errorf("header checksum mismatch")
	}
	return nil
}

// encode lays out one whole copy, checksum included.
func (b binHeader) encode(offset int64, salt [saltLen]byte, text []byte) ([]byte, error) {
	raw := make([]byte, b.size)
	magic := magicPrimary
	if offset != 0 {
		magic = magicSecondary
	}
	copy(raw[offMagic:], magic)
	binary.BigEndian.PutUint16(raw[offVersion:], 2)
	binary.BigEndian.PutUint64(raw[offHdrSize:], uint64(b.size))
	binary.BigEndian.PutUint64(raw[offSeqID:], b.seqID)
	copy(raw[offLabel:][:labelLen-1], b.label)
	copy(raw[offCsumAlg:][:csumAlgLen-1], b.csumAlg)
	copy(raw[offSalt:], salt[:])
	copy(raw[offUUID:][:uuidLen-1], b.uuid)
	copy(raw[offSubsystem:][:labelLen-1], b.subsystem)
	binary.BigEndian.PutUint64(raw[offHdrOffset:], uint64(offset))
	copy(raw[binLen:], text)
	sum, err := checksum(b.csumAlg, raw)
	if err != nil {
		return nil, err
	}
	copy(raw[offCsum:], sum)
	return raw, nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
