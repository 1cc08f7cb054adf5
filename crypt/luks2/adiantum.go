package luks2

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Adiantum (Crowley and Biggers, "Adiantum: length-preserving encryption for entry-level
// processors", 2018; Linux crypto/adiantum.c). Key slots need it because cryptsetup
// encrypts the slots of an Adiantum image with Adiantum too. It is plain Go at tens of
// MB/s: a key slot, 125 KiB, takes milliseconds. Slots that we write use AES.
type adiantumSectors struct {
	rounds             int       // of ChaCha: 12 or 20
	key                [8]uint32 // of the stream cipher
	block              cipher.Block
	headerKey, bodyKey polyKey
	nh                 [nhKeyLen / 4]uint32
}

const (
	adiantumTweak = 32 // bytes, the IV size of the kernel's adiantum
	nhChunk       = 1024
	nhKeyLen      = nhChunk + 3*16 // each of the four passes uses the key 16 bytes further on
)

func newAdiantum(key []byte, rounds int) (sectorCipher, error) {
	if len(key) != 32 {
		return nil, &UnsupportedError{What: fmt.Sprintf("adiantum key size %d bytes", len(key))}
	}
	a := &adiantumSectors{rounds: rounds}
	for i := range a.key {
		a.key[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	// All other keys are the stream under the nonce 1, 0, 0, ...
	sub := make([]byte, 32+16+16+nhKeyLen)
	defer clear(sub)
	a.stream(sub, [24]byte{1})
	var err error
	if a.block, err = aes.NewCipher(sub[:32]); err != nil {
		return nil, err
	}
	a.headerKey, a.bodyKey = newPolyKey(sub[32:48]), newPolyKey(sub[48:64])
	for i := range a.nh {
		a.nh[i] = binary.LittleEndian.Uint32(sub[64+4*i:])
	}
	return a, nil
}

func (a *adiantumSectors) encrypt(sector []byte, number uint64) {
	a.crypt(sector, plain64(number), true)
}
func (a *adiantumSectors) decrypt(sector []byte, number uint64) {
	a.crypt(sector, plain64(number), false)
}

func plain64(number uint64) []byte {
	tweak := make([]byte, adiantumTweak)
	binary.LittleEndian.PutUint64(tweak, number)
	return tweak
}

// crypt: the last 16 bytes get the hash of the rest added, go through AES, and are the
// nonce of the stream over the rest; then the hash of the new rest is subtracted.
func (a *adiantumSectors) crypt(msg, tweak []byte, encrypt bool) {
	rest, last := msg[:len(msg)-16], msg[len(msg)-16:]
	var nonce [24]byte
	nonce[16] = 1
	lo, hi := a.hash(rest, tweak)
	add128(last, lo, hi)
	if encrypt {
		a.block.Encrypt(last, last)
		copy(nonce[:], last)
	} else {
		copy(nonce[:], last)
		a.block.Decrypt(last, last)
	}
	a.stream(rest, nonce)
	lo, hi = a.hash(rest, tweak)
	lo, borrow := bits.Sub64(0, lo, 0)
	hi, _ = bits.Sub64(0, hi, borrow)
	add128(last, lo, hi)
}

func add128(b []byte, lo, hi uint64) {
	l, carry := bits.Add64(binary.LittleEndian.Uint64(b), lo, 0)
	h, _ := bits.Add64(binary.LittleEndian.Uint64(b[8:]), hi, carry)
	binary.LittleEndian.PutUint64(b, l)
	binary.LittleEndian.PutUint64(b[8:], h)
}

// hash is Poly1305 of length and tweak plus Poly1305 of the NH hashes of the message.
func (a *adiantumSectors) hash(msg, tweak []byte) (lo, hi uint64) {
	header := make([]byte, 16, 16+adiantumTweak)
	binary.LittleEndian.PutUint64(header, uint64(len(msg))*8)
	header = append(header, tweak...)
	for len(header)%16 != 0 {
		header = append(header, 0)
	}
	var p, q polySum
	p.update(a.headerKey, header)
	for len(msg) > 0 {
		chunk := msg[:min(nhChunk, len(msg))]
		msg = msg[len(chunk):]
		out := a.nhHash(chunk)
		q.update(a.bodyKey, out[:])
	}
	lo, hi = p.sum()
	lo2, hi2 := q.sum()
	lo, carry := bits.Add64(lo, lo2, 0)
	hi, _ = bits.Add64(hi, hi2, carry)
	return lo, hi
}

// nhHash is NH with four passes over at most 1024 bytes, padded with zeros to 16.
func (a *adiantumSectors) nhHash(chunk []byte) (out [32]byte) {
	var sums [4]uint64
	for i := 0; i < len(chunk); i += 16 {
		var unit [16]byte
		copy(unit[:], chunk[i:])
		var m [4]uint32
		for j := range m {
			m[j] = binary.LittleEndian.Uint32(unit[4*j:])
		}
		for pass := range sums {
			k := a.nh[i/4+4*pass:][:4]
			sums[pass] += uint64(m[0]+k[0])*uint64(m[2]+k[2]) + uint64(m[1]+k[1])*uint64(m[3]+k[3])
		}
	}
	for pass, s := range sums {
		binary.LittleEndian.PutUint64(out[8*pass:], s)
	}
	return out
}

// stream XORs the XChaCha key stream under the nonce into msg.
func (a *adiantumSectors) stream(msg []byte, nonce [24]byte) {
	s := chachaState{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}
	copy(s[4:], a.key[:])
	for i := range 4 {
		s[12+i] = binary.LittleEndian.Uint32(nonce[4*i:])
	}
	// HChaCha: the sub-key is the first and last row after the rounds.
	h := s.rounds(a.rounds)
	copy(s[4:], h[:4])
	copy(s[8:], h[12:])
	s[12], s[13] = 0, 0
	s[14], s[15] = binary.LittleEndian.Uint32(nonce[16:]), binary.LittleEndian.Uint32(nonce[20:])
	var block [64]byte
	for len(msg) > 0 {
		out := s.rounds(a.rounds)
		for i := range out {
			binary.LittleEndian.PutUint32(block[4*i:], out[i]+s[i])
		}
		msg = msg[subtle.XORBytes(msg, msg, block[:min(64, len(msg))]):]
		s[12]++ // 2^32 blocks are far more than a sector
	}
	clear(block[:])
}

type chachaState [16]uint32

func (s chachaState) rounds(n int) chachaState {
	for range n / 2 {
		for i := range 4 {
			s.quarter(i, 4+i, 8+i, 12+i)
		}
		for i := range 4 {
			s.quarter(i, 4+(i+1)%4, 8+(i+2)%4, 12+(i+3)%4)
		}
	}
	return s
}

func (s *chachaState) quarter(a, b, c, d int) {
	s[a] += s[b]
	s[d] = bits.RotateLeft32(s[d]^s[a], 16)
	s[c] += s[d]
	s[b] = bits.RotateLeft32(s[b]^s[c], 12)
	s[a] += s[b]
	s[d] = bits.RotateLeft32(s[d]^s[a], 8)
	s[c] += s[d]
	s[b] = bits.RotateLeft32(s[b]^s[c], 7)
}
