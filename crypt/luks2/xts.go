package luks2

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// xtsSectors is XTS (IEEE 1619) with the sector number as the tweak. x/crypto/xts does
// the same; this one keeps the tweak in two registers, which halves the time of
// decrypting a key slot.
type xtsSectors struct {
	data, tweak cipher.Block
	iv          [aes.BlockSize]byte // scratch, so that it is not allocated per sector
}

func newXTS(key []byte) (sectorCipher, error) {
	if len(key) != 32 && len(key) != 64 {
		return nil, &UnsupportedError{What: fmt.Sprintf("aes-xts key size %d bytes", len(key))}
	}
	data, err := aes.NewCipher(key[:len(key)/2])
	if err != nil {
		return nil, err
	}
	tweak, err := aes.NewCipher(key[len(key)/2:])
	if err != nil {
		return nil, err
	}
	return &xtsSectors{data: data, tweak: tweak}, nil
}

func (x *xtsSectors) encrypt(sector []byte, number uint64) { x.crypt(sector, number, true) }
func (x *xtsSectors) decrypt(sector []byte, number uint64) { x.crypt(sector, number, false) }

// crypt is one sector. A xtsSectors is its caller's alone: see afAccumulate.
//
//go:norace
func (x *xtsSectors) crypt(sector []byte, number uint64, encrypt bool) {
	iv := x.iv[:]
	binary.LittleEndian.PutUint64(iv, number)
	clear(iv[8:])
	x.tweak.Encrypt(iv, iv)
	lo, hi := binary.LittleEndian.Uint64(iv), binary.LittleEndian.Uint64(iv[8:])
	for ; len(sector) >= aes.BlockSize; sector = sector[aes.BlockSize:] {
		b := sector[:aes.BlockSize:aes.BlockSize]
		xor128(b, lo, hi)
		if encrypt {
			x.data.Encrypt(b, b)
		} else {
			x.data.Decrypt(b, b)
		}
		xor128(b, lo, hi)
		// The next tweak: times x in GF(2^128), reduced by x^128 = x^7 + x^2 + x + 1.
		carry := uint64(int64(hi)>>63) & 0x87
		hi, lo = hi<<1|lo>>63, lo<<1^carry
	}
}

//go:norace
func xor128(b []byte, lo, hi uint64) {
	binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^lo)
	binary.LittleEndian.PutUint64(b[8:], binary.LittleEndian.Uint64(b[8:])^hi)
}
