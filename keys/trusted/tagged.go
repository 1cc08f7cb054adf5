package trusted

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"layervault/keys"
)

// NXP's kernels for i.MX have tagged keys: CAAM's "black" key, encrypted with a key that
// CAAM draws at each reset, behind a header that names it as such. A program may hold it
// and hand it to dm-crypt as a logon key; only the cipher tk(cbc(aes)), which CAAM runs,
// can use it. /dev/caam-keygen makes one and its blob, and turns the blob into a black
// key again after a reset (<linux/caam_keygen.h> and drivers/crypto/caam/caamkeygen.c in
// NXP's kernel).

// taggedDevice is where NXP's kernels make tagged keys.
const taggedDevice = "/dev/caam-keygen"

// keygenCmd is struct caam_keygen_cmd. The padding before blob is the compiler's there, on
// arm and arm64.
type keygenCmd struct {
	keyEncLen, keyModeLen   uint8
	keyValueLen             uint16
	blackKeyLen             uint32
	keyEnc, keyMode, keyVal uint64 // pointers
	blackKey                uint64 // pointer
	blobLen                 uint32
	_                       uint32
	blob                    uint64 // pointer
}

// The requests: _IOWR('K', 0 and 1, struct caam_keygen_cmd).
const (
	keygenSize           = 56
	keygenCreate uintptr = 3<<30 | keygenSize<<16 | 'K'<<8
	keygenImport uintptr = 3<<30 | keygenSize<<16 | 'K'<<8 | 1
)

// The largest that CAAM gives (MAX_BLACK_KEY_SIZE, MAX_BLOB_SIZE in caamkeyblob.h): a key
// of 64 bytes, nonce and IV of 12, the tag of 20, and for the blob 48 of its own.
const (
	maxBlackKey = 64 + 12 + 20
	maxBlob     = maxBlackKey + 48
)

// taggedKeySize is the key's length in bytes, in the words of the ioctl: what NXP's
// application notes use with dm-crypt.
const taggedKeySize = "16"

func taggedAvailable() error {
	_, err := os.Stat(taggedDevice)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no %s, only NXP's i.MX kernels have it (on others: source=caam): %w", ErrNoTrusted, taggedDevice, err)
	}
	return err
}

// createTagged makes a new key of size bytes, header included. The caller wipes it.
func createTagged(size int) (key []byte, sealed string, err error) {
	key, blob := make([]byte, maxBlackKey), make([]byte, maxBlob)
	// Texts with their NUL, but the number: its length says where it ends.
	enc, mode, value := []byte("ecb\x00"), []byte("-s\x00"), []byte(taggedKeySize)
	var pins runtime.Pinner
	defer pins.Unpin()
	cmd := keygenCmd{
		keyEncLen: uint8(len(enc)), keyEnc: pinned(&pins, enc),
		keyModeLen: uint8(len(mode)), keyMode: pinned(&pins, mode),
		keyValueLen: uint16(len(value)), keyVal: pinned(&pins, value),
		blackKeyLen: uint32(len(key)), blackKey: pinned(&pins, key),
		blobLen: uint32(len(blob)), blob: pinned(&pins, blob),
	}
	if err := keygen(keygenCreate, &cmd); err != nil {
		return nil, "", fmt.Errorf("%w: CAAM makes no tagged key (%s): %w", ErrNoTrusted, said(blob), err)
	}
	if key, err = taggedKey(key, cmd.blackKeyLen, size); err != nil {
		return nil, "", err
	}
	if int64(cmd.blobLen) > int64(len(blob)) {
		return nil, "", fmt.Errorf("%w: CAAM returned a blob of %d bytes", ErrNoTrusted, cmd.blobLen)
	}
	return key, hex.EncodeToString(blob[:cmd.blobLen]), nil
}

// importTagged turns a blob into a key again. The caller wipes it.
func importTagged(sealed string, size int) ([]byte, error) {
	blob, err := hex.DecodeString(sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDamagedSlot, err)
	}
	if len(blob) == 0 || len(blob) > maxBlob { // the kernel has room for no more
		return nil, fmt.Errorf("%w: blob has %d bytes, CAAM limit is %d", keys.ErrDamagedSlot, len(blob), maxBlob)
	}
	key := make([]byte, maxBlackKey)
	var pins runtime.Pinner
	defer pins.Unpin()
	cmd := keygenCmd{blackKeyLen: uint32(len(key)), blackKey: pinned(&pins, key), blobLen: uint32(len(blob)), blob: pinned(&pins, blob)}
	if err := keygen(keygenImport, &cmd); err != nil {
		if errors.Is(err, ErrNoTrusted) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: blob is from another CAAM, or damaged (%s): %w", ErrOtherChip, said(key), err)
	}
	return taggedKey(key, cmd.blackKeyLen, size)
}

func taggedKey(buf []byte, n uint32, size int) ([]byte, error) {
	if int64(n) != int64(size) {
		clear(buf)
		return nil, fmt.Errorf("%w: CAAM returned a tagged key of %d bytes, want %d", ErrNoTrusted, n, size)
	}
	return buf[:size], nil
}

func keygen(request uintptr, cmd *keygenCmd) error {
	f, err := os.OpenFile(taggedDevice, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return taggedAvailable()
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(cmd))); errno != 0 {
		return errno
	}
	return nil
}

func pinned(pins *runtime.Pinner, b []byte) uint64 {
	pins.Pin(&b[0])
	return uint64(uintptr(unsafe.Pointer(&b[0])))
}

// said is the message that the driver leaves where the result would be.
func said(buf []byte) string {
	text, _, _ := strings.Cut(string(buf), "\x00")
	return strings.TrimSpace(text)
}
