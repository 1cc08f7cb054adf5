package luks2

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Data ciphers, in dm-crypt's notation.
const (
	CipherXTS      = "aes-xts-plain64"                // key of 64 (default) or 32 bytes
	CipherESSIV    = "aes-cbc-essiv:sha256"           // key of 32 bytes; for CAAM, which has no XTS
	CipherAdiantum = "xchacha12,aes-adiantum-plain64" // key of 32 bytes; where AES has no hardware
)

// Persistent activation flags: what every tool that opens the image then asks of
// dm-crypt.
const (
	FlagAllowDiscards    = "allow-discards"
	FlagNoReadWorkqueue  = "no-read-workqueue"
	FlagNoWriteWorkqueue = "no-write-workqueue"
)

// Defaults of Params. Copies of 16 KiB are the least the format allows. With data at
// 1 MiB the key slots area has 992 KiB: three slots of a 512 bit key (252 KiB each),
// so that one stays free for a new passphrase and one for cryptsetup reencrypt.
const (
	DefaultSectorSize   = 4096
	DefaultMetadataSize = 16 << 10
	DefaultDataOffset   = 1 << 20
)

// cipherKeySizes gives the key sizes in bytes that a data cipher takes, the default
// first.
var cipherKeySizes = map[string][]int{
	CipherXTS:      {64, 32},
	CipherESSIV:    {32},
	CipherAdiantum: {32},
}

// Params says what Format makes. The zero value stands for the defaults.
type Params struct {
	UUID         string // default: a random one
	Label        string // at most 47 bytes
	Subsystem    string // at most 47 bytes
	Cipher       string // default CipherXTS
	KeySize      int    // of the volume key, in bytes; default: the cipher's first
	SectorSize   int    // of the data, in bytes: 512, 1024, 2048 or 4096 (default)
	MetadataSize int64  // of one header copy, in bytes: a power of two from 16 KiB (default) to 4 MiB
	DataOffset   int64  // where the data begins, in bytes, a multiple of 4096; default 1 MiB
	Flags        []string
	// Tokens are JSON objects with "type" and "keyslots", which are not interpreted.
	Tokens []json.RawMessage
	// Owner, when set, makes an image of format 2: one whose header is authenticated with
	// the passphrase. See ImageToken.
	Owner *Owner
}

// withDefaults fills in and checks.
func (p Params) withDefaults() (Params, error) {
	if p.UUID == "" {
		p.UUID = uuid.NewString()
	}
	id, err := uuid.Parse(p.UUID)
	if err != nil {
		return p, fmt.Errorf("UUID %q: %w", p.UUID, err)
	}
	p.UUID = id.String()
	if p.Cipher == "" {
		p.Cipher = CipherXTS
	}
	sizes, ok := cipherKeySizes[p.Cipher]
	if !ok {
		return p, &UnsupportedError{What: fmt.Sprintf("cipher %q", p.Cipher)}
	}
	if p.KeySize == 0 {
		p.KeySize = sizes[0]
	}
	if p.SectorSize == 0 {
		p.SectorSize = DefaultSectorSize
	}
	if p.MetadataSize == 0 {
		p.MetadataSize = DefaultMetadataSize
	}
	if p.DataOffset == 0 {
		p.DataOffset = DefaultDataOffset
	}
	switch {
	case !slices.Contains(sizes, p.KeySize):
		return p, &UnsupportedError{What: fmt.Sprintf("key size %d bytes for %s", p.KeySize, p.Cipher)}
	case !slices.Contains(sectorSizes, p.SectorSize):
		return p, &UnsupportedError{What: fmt.Sprintf("sector size %d", p.SectorSize)}
	case !validHeaderSize(p.MetadataSize):
		return p, fmt.Errorf("metadata size %d is not one of %d", p.MetadataSize, headerSizes)
	case p.DataOffset%areaAlign != 0:
		return p, fmt.Errorf("data offset %d is not a multiple of %d", p.DataOffset, areaAlign)
	case p.keyslotsSize() < roundUp(int64(p.KeySize)*afStripes, areaAlign):
		return p, fmt.Errorf("%w: data offset %d leaves no space for a key slot", ErrNoRoom, p.DataOffset)
	}
	for _, s := range []string{p.Label, p.Subsystem} {
		if len(s) >= labelLen || strings.ContainsRune(s, 0) {
			return p, fmt.Errorf("label %q is longer than %d bytes or contains NUL", s, labelLen-1)
		}
	}
	return p, nil
}

// keyslotsSize: everything between the header copies and the data.
func (p Params) keyslotsSize() int64 {
	return min(p.DataOffset-2*p.MetadataSize, maxKeyslotsSize)
}

// Format makes f a LUKS2 image with a fresh random volume key and one key slot,
// number 0, that the passphrase opens. The caller wipes the volume key. What the file
// held before the data offset is overwritten or lost; the data area is not
// touched, and a file that ends before the data offset is made that long.
//
// The key slot is written first, then both header copies; one Sync ends it. Until
// Format returns, what a power cut leaves is undefined: format a file under a
// temporary name, Verify it, then rename it.
//
// Errors: ErrUnsupported, ErrNoRoom, ErrTooCostly, ErrEmptyKey, or what f returned.
func Format(f File, p Params, kdf KDF, passphrase []byte) (h *Header, volumeKey []byte, err error) {
	if p, err = p.withDefaults(); err != nil {
		return nil, nil, fmt.Errorf("formatting: %w", err)
	}
	if err := kdf.checkNew(passphrase); err != nil {
		return nil, nil, fmt.Errorf("formatting: %w", err)
	}
	volumeKey = make([]byte, p.KeySize)
	rand.Read(volumeKey)
	if h, err = format(f, p, kdf, passphrase, volumeKey); err != nil {
		clear(volumeKey)
		return nil, nil, fmt.Errorf("formatting %s: %w", p.UUID, err)
	}
	return h, volumeKey, nil
}

func format(f File, p Params, kdf KDF, passphrase, volumeKey []byte) (*Header, error) {
	h := &Header{bin: binHeader{
		size: p.MetadataSize, seqID: 1, label: p.Label, subsystem: p.Subsystem, uuid: p.UUID, csumAlg: "sha256",
	}}
	rand.Read(h.salt[0][:])
	rand.Read(h.salt[1][:])
	empty := metadata{keyslotsSize: p.keyslotsSize()}
	k, err := empty.newKeyslot(0, p.KeySize, p.MetadataSize, kdf)
	if err != nil {
		return nil, err
	}
	dig, err := newDigest(volumeKey, 0)
	if err != nil {
		return nil, err
	}
	config := object{
		"json_size":     strconv.FormatInt(p.MetadataSize-binLen, 10),
		"keyslots_size": strconv.FormatInt(p.keyslotsSize(), 10),
	}
	if len(p.Flags) > 0 {
		config["flags"] = toAny(p.Flags)
	}
	tokens := object{}
	for i, text := range p.Tokens {
		if tokens[strconv.Itoa(i)], err = decodeTree(bytes.TrimSpace(text)); err != nil {
			return nil, fmt.Errorf("token %d: %w", i, err)
		}
	}
	doc := object{
		"keyslots": object{"0": k.json()},
		"tokens":   tokens,
		"segments": object{"0": object{
			"type": "crypt", "offset": strconv.FormatInt(p.DataOffset, 10), "size": "dynamic",
			"iv_tweak": "0", "encryption": p.Cipher, "sector_size": number(p.SectorSize),
		}},
		"digests": object{"0": dig},
		"config":  config,
	}
	if p.Owner != nil {
		s := newSealing(*p.Owner, passphrase, nil)
		defer s.wipe()
		if err := s.seal(h.bin, doc); err != nil {
			return nil, err
		}
	}
	if err := h.setTree(doc); err != nil {
		return nil, err
	}
	if err := forgetOldHeaders(f, p); err != nil {
		return nil, err
	}
	if h.fresh.sum, err = k.write(f, volumeKey, passphrase); err != nil {
		return nil, err
	}
	h.fresh.slot = k
	for i := range h.bad {
		if err := h.writeCopy(f, i); err != nil {
			return nil, err
		}
	}
	if err := extend(f, p.DataOffset); err != nil {
		return nil, err
	}
	return h, f.Sync()
}

// forgetOldHeaders zeroes secondary copies left by an earlier, larger header: if the
// new primary were damaged later, Read could take one of them for the secondary copy.
func forgetOldHeaders(f File, p Params) error {
	var head [binLen]byte
	for _, offset := range headerSizes {
		if offset == p.MetadataSize || offset+binLen > p.DataOffset {
			continue
		}
		if err := readSome(f, head[:], offset); err != nil {
			return err
		}
		if !hasMagic(head[:], true) {
			continue
		}
		clear(head[:])
		if _, err := f.WriteAt(head[:], offset); err != nil {
			return err
		}
	}
	return nil
}

// extend makes the file at least n bytes long: cryptsetup refuses an image that ends
// within its key slots area.
func extend(f File, n int64) error {
	var last [1]byte
	if _, err := f.ReadAt(last[:], n-1); !errors.Is(err, io.EOF) {
		return err
	}
	_, err := f.WriteAt(last[:], n-1)
	return err
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
