package keys

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// HKDF-SHA256 (RFC 5869) whose whole state lies in memory of our own.
//
// crypto/sha256 keeps the last block of what it hashed in its own memory, which nobody can
// wipe, and HKDF's input is hashed as a message: each derived key left a copy of the tier key
// on the heap, where it could be swapped out (seen by a search of the plugin's memory for the
// known key). Here it lies in locked memory and is wiped. Speed does not matter: a derivation
// is eight blocks.
type hkdfState struct {
	h      [8]uint32
	w      [64]uint32 // message schedule
	block  [64]byte
	pad    [64]byte // HMAC's key, with ipad or opad
	inner  [32]byte
	prk    [32]byte
	okm    [32]byte
	length [8]byte
}

const hkdfStateSize = int(unsafe.Sizeof(hkdfState{}))

// hkdfIn lays the state over locked memory of at least hkdfStateSize bytes, aligned as
// pages are.
func hkdfIn(mem []byte) *hkdfState {
	_ = mem[hkdfStateSize-1]
	return (*hkdfState)(unsafe.Pointer(&mem[0]))
}

// deriveKey is one key of 32 bytes; the state is wiped. secret, salt and info may be of
// any length. The caller wipes the result.
func (s *hkdfState) deriveKey(secret, salt []byte, info string) []byte {
	defer func() { *s = hkdfState{} }()
	s.hmac(&s.prk, salt, secret)                            // extract
	s.hmac(&s.okm, s.prk[:], append([]byte(info), 1))       // expand, the first block
	return append(make([]byte, 0, len(s.okm)), s.okm[:]...) // not on s, which is wiped
}

// SHA256 hashes parts, one after the other, for data that has a key in it: no copy stays
// behind.
func SHA256(parts ...[]byte) (sum [32]byte, err error) {
	err = WithSecret(hkdfStateSize, func(mem []byte) error {
		s := hkdfIn(mem)
		s.sum(&s.okm, parts...)
		sum = s.okm
		return nil
	})
	return sum, err
}

// hmac is HMAC-SHA256 (RFC 2104) of a key of at most 64 bytes.
func (s *hkdfState) hmac(out *[32]byte, key, message []byte) {
	for _, turn := range []struct {
		xor     byte
		message []byte
		out     *[32]byte
	}{{0x36, message, &s.inner}, {0x5c, s.inner[:], out}} {
		clear(s.pad[:])
		copy(s.pad[:], key)
		for i := range s.pad {
			s.pad[i] ^= turn.xor
		}
		s.sum(turn.out, s.pad[:], turn.message)
	}
}

// sum is SHA-256 (FIPS 180-4) of parts, one after the other.
func (s *hkdfState) sum(out *[32]byte, parts ...[]byte) {
	s.h = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}
	n, total := 0, uint64(0)
	put := func(b byte) {
		s.block[n] = b
		if n++; n == len(s.block) {
			s.compress()
			n = 0
		}
	}
	for _, part := range parts {
		total += uint64(len(part))
		for _, b := range part {
			put(b)
		}
	}
	// The message ends with a one bit, zeros, and its length in bits.
	put(0x80)
	for n != len(s.block)-len(s.length) {
		put(0)
	}
	binary.BigEndian.PutUint64(s.length[:], 8*total)
	for _, b := range s.length {
		put(b)
	}
	for i, word := range s.h {
		binary.BigEndian.PutUint32(out[4*i:], word)
	}
}

// sha256K are the constants of FIPS 180-4, section 4.2.2.
var sha256K = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// compress takes one block into the state (FIPS 180-4, section 6.2.2).
func (s *hkdfState) compress() {
	for i := range 16 {
		s.w[i] = binary.BigEndian.Uint32(s.block[4*i:])
	}
	for i := 16; i < len(s.w); i++ {
		w2, w15 := s.w[i-2], s.w[i-15]
		s.w[i] = s.w[i-16] + s.w[i-7] +
			(bits.RotateLeft32(w15, -7) ^ bits.RotateLeft32(w15, -18) ^ w15>>3) +
			(bits.RotateLeft32(w2, -17) ^ bits.RotateLeft32(w2, -19) ^ w2>>10)
	}
	a, b, c, d, e, f, g, h := s.h[0], s.h[1], s.h[2], s.h[3], s.h[4], s.h[5], s.h[6], s.h[7]
	for i := range s.w {
		t1 := h + (bits.RotateLeft32(e, -6) ^ bits.RotateLeft32(e, -11) ^ bits.RotateLeft32(e, -25)) + (e&f ^ ^e&g) + sha256K[i] + s.w[i]
		t2 := (bits.RotateLeft32(a, -2) ^ bits.RotateLeft32(a, -13) ^ bits.RotateLeft32(a, -22)) + (a&b ^ a&c ^ b&c)
		a, b, c, d, e, f, g, h = t1+t2, a, b, c, d+t1, e, f, g
	}
	for i, word := range [8]uint32{a, b, c, d, e, f, g, h} {
		s.h[i] += word
	}
}
