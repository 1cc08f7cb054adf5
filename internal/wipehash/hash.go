// Package wipehash is SHA-256 (FIPS 180-4), HMAC (RFC 2104), HKDF (RFC 5869) and PBKDF2
// (RFC 8018) whose whole state lies in one struct of the caller's, for hashing keys.
//
// The standard library's copies cannot be wiped: crypto/sha256 keeps the last block of what
// it hashed, crypto/hmac the key, and crypto/pbkdf2 a whole passphrase, as it takes that for
// a string. Tier keys and passphrases of images were found on the heap by a search of the
// plugin's memory for the known keys, where they may be swapped out. (runtime/secret will do
// the same for any code, but is an experiment, and for two of our three processors only.)
//
// What hashes a few blocks is portable Go, some four times slower than the standard library's
// assembly, which does not matter there. PBKDF2's thousands of blocks, a tenth of what opening
// an image costs, are crypto/sha256's, with whatever help the processor has: it is given
// whole blocks only, which it does not keep, its own state goes in and out by its encoding,
// and is reset at the end with the stack below it.
package wipehash

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"math/bits"
	"runtime"
	"unsafe"
)

// Size is the length of a hash in bytes.
const Size = 32

const (
	blockSize  = 64 // what is hashed at a time, in bytes
	lengthSize = 8  // of the message's length at its end, in bytes
	rounds     = 64
)

// State is the memory of a computation. The zero value is ready. Each method leaves parts
// of its input in it: Wipe it.
type State struct {
	h      [8]uint32
	w      [rounds]uint32 // message schedule
	block  [blockSize]byte
	filled int // of block
	total  uint64

	inner, outer [8]uint32 // HMAC's states after the padded key
	pad          [blockSize]byte
	digest       [Size]byte
	a, b         [Size]byte // of what is built on HMAC

	innerCode, outerCode, code encoded // what goes in and out of crypto/sha256
}

// StateSize is how much memory In needs, in bytes.
const StateSize = int(unsafe.Sizeof(State{}))

// In lays a state over memory of at least StateSize bytes, aligned as pages are.
func In(mem []byte) *State {
	_ = mem[StateSize-1]
	return (*State)(unsafe.Pointer(&mem[0]))
}

// Wipe leaves nothing.
func (s *State) Wipe() { *s = State{} }

// Sum is the hash of parts, one after the other.
func (s *State) Sum(out *[Size]byte, parts ...[]byte) {
	s.h, s.filled, s.total = start, 0, 0
	for _, part := range parts {
		s.write(part)
	}
	s.end(out)
}

// start is the state before anything was hashed (FIPS 180-4, section 5.3.3).
var start = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}

//go:norace
func (s *State) write(data []byte) {
	s.total += uint64(len(data))
	for len(data) > 0 {
		n := copy(s.block[s.filled:], data)
		data = data[n:]
		if s.filled += n; s.filled == blockSize {
			s.compress()
			s.filled = 0
		}
	}
}

// end appends a one bit, zeros, and the length in bits, and gives the hash.
//
//go:norace
func (s *State) end(out *[Size]byte) {
	s.block[s.filled] = 0x80
	clear(s.block[s.filled+1:])
	if s.filled >= blockSize-lengthSize {
		s.compress()
		clear(s.block[:])
	}
	binary.BigEndian.PutUint64(s.block[blockSize-lengthSize:], 8*s.total)
	s.compress()
	for i, word := range s.h {
		binary.BigEndian.PutUint32(out[4*i:], word)
	}
}

// setKey is the part of HMAC that depends on its key only.
func (s *State) setKey(key []byte) {
	clear(s.pad[:])
	if len(key) > blockSize {
		s.Sum(&s.digest, key)
		key = s.digest[:]
	}
	copy(s.pad[:], key)
	for _, turn := range []struct {
		xor byte
		to  *[8]uint32
	}{{0x36, &s.inner}, {0x36 ^ 0x5c, &s.outer}} {
		for i := range s.pad {
			s.pad[i] ^= turn.xor
		}
		s.h, s.filled = start, 0
		s.write(s.pad[:])
		*turn.to = s.h
	}
}

// mac is HMAC of parts, one after the other, with the key of setKey. out may be a part.
//
//go:norace
func (s *State) mac(out *[Size]byte, parts ...[]byte) {
	s.h, s.filled, s.total = s.inner, 0, blockSize
	for _, part := range parts {
		s.write(part)
	}
	s.end(&s.digest)
	s.h, s.filled, s.total = s.outer, 0, blockSize
	s.write(s.digest[:])
	s.end(out)
}

// HKDF derives a key of Size bytes and wipes the state. The caller wipes the result.
func (s *State) HKDF(secret, salt []byte, info string) []byte {
	defer s.Wipe()
	s.setKey(salt)
	s.mac(&s.a, secret) // extract
	s.setKey(s.a[:])
	s.mac(&s.b, []byte(info), []byte{1}) // expand, the first block
	return append(make([]byte, 0, Size), s.b[:]...)
}

// HMAC is the code of parts, one after the other, under key. It wipes the state.
func (s *State) HMAC(out *[Size]byte, key []byte, parts ...[]byte) {
	defer s.Wipe()
	s.setKey(key)
	s.mac(out, parts...)
}

// PBKDF2 derives a key of n bytes and wipes the state. The caller wipes the result.
//
//go:norace
func (s *State) PBKDF2(secret, salt []byte, iterations, n int) []byte {
	defer s.Wipe()
	// No append may move it: each copy would have to be wiped.
	out := make([]byte, 0, (n+Size-1)/Size*Size)
	s.setKey(secret)
	for i := 1; len(out) < n; i++ {
		var number [4]byte
		binary.BigEndian.PutUint32(number[:], uint32(i))
		s.mac(&s.a, salt, number[:])
		s.b = s.a
		s.repeat(iterations - 1)
		out = append(out, s.b[:]...)
	}
	clear(out[n:cap(out)])
	return out[:n]
}

// repeat replaces a by its HMAC under the key of setKey, n times, and adds each to b.
//
//go:norace
func (s *State) repeat(n int) {
	wipeStack() // and now it is large enough, and will not be moved with something on it
	defer wipeStack()
	sha := sha256.New().(engine)
	defer sha.Reset()
	s.innerCode.set(&s.inner)
	s.outerCode.set(&s.outer)
	// Both messages have one block after the padded key: a hash, and its padding.
	clear(s.block[:])
	s.block[Size] = 0x80
	binary.BigEndian.PutUint64(s.block[blockSize-lengthSize:], 8*(blockSize+Size))
	for range n {
		copy(s.block[:], s.a[:])
		s.compressFrom(sha, &s.innerCode)
		s.compressFrom(sha, &s.outerCode)
		copy(s.a[:], s.block[:])
		for j := range s.b {
			s.b[j] ^= s.a[j]
		}
	}
}

// engine is crypto/sha256's implementation.
type engine interface {
	hash.Hash
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}

// compressFrom takes the block into a state, and puts the hash that results at its beginning.
//
//go:norace
func (s *State) compressFrom(sha engine, state *encoded) {
	err := sha.UnmarshalBinary(state[:])
	if err == nil {
		_, _ = sha.Write(s.block[:]) // documented to return no error
		_, err = sha.AppendBinary(s.code[:0])
	}
	if err != nil {
		panic("crypto/sha256 has another encoding of its state than with Go 1.26: " + err.Error())
	}
	copy(s.block[:], s.code.words())
}

// encoded is how crypto/sha256 encodes its state between two blocks: four bytes that name the
// format, the eight words of the state, the rest of a block, which is never anything here, and
// the number of bytes hashed.
type encoded [len(magic) + Size + blockSize + lengthSize]byte

const magic = "sha\x03"

// words are the state's, big endian: after the last block, the hash.
func (e *encoded) words() []byte { return e[len(magic):][:Size] }

// set makes e the state after one block.
//
//go:norace
func (e *encoded) set(words *[8]uint32) {
	copy(e[:], magic)
	for i, word := range words {
		binary.BigEndian.PutUint32(e.words()[4*i:], word)
	}
	binary.BigEndian.PutUint64(e[len(e)-lengthSize:], blockSize)
}

// stackUse is more than repeat uses of the stack, in bytes: where the processor has no
// instructions for SHA-256, crypto/sha256 spreads a block out in a frame of some 600.
const stackUse = 4 << 10

// wipeStack overwrites the stack below its caller.
//
//go:noinline
func wipeStack() {
	var below [stackUse]byte
	clear(below[:])
	runtime.KeepAlive(&below)
}

// constants are those of FIPS 180-4, section 4.2.2.
var constants = [rounds]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// compress takes one block into the state (FIPS 180-4, section 6.2.2). A state is its
// caller's alone, and with the race detector in this loop a key slot takes a second.
//
//go:norace
func (s *State) compress() {
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
		t1 := h + (bits.RotateLeft32(e, -6) ^ bits.RotateLeft32(e, -11) ^ bits.RotateLeft32(e, -25)) + (e&f ^ ^e&g) + constants[i] + s.w[i]
		t2 := (bits.RotateLeft32(a, -2) ^ bits.RotateLeft32(a, -13) ^ bits.RotateLeft32(a, -22)) + (a&b ^ a&c ^ b&c)
		a, b, c, d, e, f, g, h = t1+t2, a, b, c, d+t1, e, f, g
	}
	for i, word := range [8]uint32{a, b, c, d, e, f, g, h} {
		s.h[i] += word
	}
}
