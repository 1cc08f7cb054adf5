package luks2

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// areaSector: key slot areas are encrypted in sectors of 512 bytes, numbered from 0
// at the begin of the area, whatever the sector size of the data.
const areaSector = 512

// What this package writes key slot areas with.
const (
	defaultAreaCipher  = "aes-xts-plain64"
	defaultAreaKeySize = 64
)

// sectorCipher encrypts and decrypts one sector in place.
type sectorCipher interface {
	encrypt(sector []byte, number uint64)
	decrypt(sector []byte, number uint64)
}

// newSectorCipher knows the ciphers that key slot areas are found to use.
// Sector numbers stay far below 2^32 here, so plain and plain64 are the same.
func newSectorCipher(spec string, key []byte) (sectorCipher, error) {
	switch spec {
	case "aes-xts-plain64", "aes-xts-plain":
		return newXTS(key)
	case "aes-cbc-essiv:sha256":
		return newESSIV(key)
	case "xchacha12,aes-adiantum-plain64":
		return newAdiantum(key, 12)
	case "xchacha20,aes-adiantum-plain64":
		return newAdiantum(key, 20)
	}
	return nil, &UnsupportedError{What: fmt.Sprintf("key slot cipher %q", spec)}
}

// essivSectors is CBC whose IV is the sector number encrypted with the hash of the
// key (dm-crypt's essiv:sha256).
type essivSectors struct{ data, iv cipher.Block }

func newESSIV(key []byte) (sectorCipher, error) {
	data, err := aes.NewCipher(key)
	if err != nil {
		return nil, &UnsupportedError{What: fmt.Sprintf("aes-cbc key size %d bytes", len(key))}
	}
	salt := sha256.Sum256(key)
	defer clear(salt[:])
	iv, err := aes.NewCipher(salt[:])
	if err != nil {
		return nil, err
	}
	return essivSectors{data, iv}, nil
}

func (e essivSectors) ivOf(number uint64) []byte {
	iv := make([]byte, aes.BlockSize)
	binary.LittleEndian.PutUint64(iv, number)
	e.iv.Encrypt(iv, iv)
	return iv
}

func (e essivSectors) encrypt(sector []byte, number uint64) {
	cipher.NewCBCEncrypter(e.data, e.ivOf(number)).CryptBlocks(sector, sector)
}

func (e essivSectors) decrypt(sector []byte, number uint64) {
	cipher.NewCBCDecrypter(e.data, e.ivOf(number)).CryptBlocks(sector, sector)
}

// cryptArea runs over a whole area; its length must be a multiple of 512.
func cryptArea(area []byte, do func(sector []byte, number uint64)) {
	for i := 0; i < len(area); i += areaSector {
		do(area[i:i+areaSector], uint64(i/areaSector))
	}
}
