// Package wipehash is SHA-256 (FIPS 180-4), HMAC (RFC 2104), HKDF (RFC 5869) and PBKDF2
// (RFC 8018) whose whole state lies in one struct of the caller's, for hashing keys.
//
// The standard library's copies cannot be wiped: crypto/sha256 keeps the last block of what
// it hashed, crypto/hmac the key, and crypto/pbkdf2 a whole passphrase, as it takes that for
// a string. Tier keys and passphrases of images were found on the heap by a search of the
// plugin's memory for the known keys, where they may be swapped out. (runtime/secret will do
// the same for any code, but is an experiment, and for two of our three processors only.)
//
// What is made of one block is crypto/sha256's, with whatever help the processor has: it is
// given whole blocks only, which it does not keep, and its own state is put in and taken out
// by its binary encoding.
package wipehash

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"runtime"
	"unsafe"
)

// Size is the length of a hash in bytes.
const Size = 32

const (
	blockSize  = 64 // what is hashed at a time, in bytes
	lengthSize = 8  // of the message's length at its end, in bytes
)

// chain is SHA-256's state between two blocks as crypto/sha256 encodes it: four bytes that
// name the format, the eight words of the state, what is left of a block, which is never
// anything here, and the number of bytes hashed, which is for us to count.
type chain [magicSize + Size + blockSize + lengthSize]byte

const (
	magic     = "sha\x03"
	magicSize = len(magic)
)

// words are the state, big endian: after the last block, the hash.
func (c *chain) words() []byte { return c[magicSize:][:Size] }

// State is the memory of a computation. The zero value is ready, and what each method leaves.
type State struct {
	h      chain
	block  [blockSize]byte
	filled int // of block
	total  uint64

	inner, outer chain // HMAC's states after the padded key
	pad          [blockSize]byte
	digest       [Size]byte
	a, b         [Size]byte // of what is built on HMAC
}

// StateSize is how much memory In needs, in bytes.
const StateSize = int(unsafe.Sizeof(State{}))

// In lays a state over memory of at least StateSize bytes, aligned as pages are.
func In(mem []byte) *State {
	_ = mem[StateSize-1]
	return (*State)(unsafe.Pointer(&mem[0]))
}

// engine is crypto/sha256's implementation.
type engine interface {
	hash.Hash
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}

// compress takes the block into the state (FIPS 180-4, section 6.2.2).
func (s *State) compress(sha engine) {
	err := sha.UnmarshalBinary(s.h[:])
	if err == nil {
		_, _ = sha.Write(s.block[:]) // never fails, says hash.Hash
		_, err = sha.AppendBinary(s.h[:0])
	}
	if err != nil {
		panic("crypto/sha256 has another encoding of its state than with Go 1.26: " + err.Error())
	}
}

// run gives compute an engine, and wipes what it leaves in the state, in the engine and on
// the stack: where the processor has no instructions for SHA-256, crypto/sha256 spreads each
// block out there.
func (s *State) run(compute func(sha engine)) {
	wipeStack() // and now it is large enough, and will not be moved with something on it
	sha := sha256.New().(engine)
	compute(sha)
	sha.Reset()
	*s = State{}
	wipeStack()
}

// stackUse is more than compute uses of the stack, in bytes: the largest frame of
// crypto/sha256 is some 600.
const stackUse = 4 << 10

// wipeStack overwrites the stack below its caller.
//
//go:noinline
func wipeStack() {
	var below [stackUse]byte
	clear(below[:])
	runtime.KeepAlive(&below)
}

// Sum is the hash of parts, one after the other.
func (s *State) Sum(out *[Size]byte, parts ...[]byte) {
	s.run(func(sha engine) { s.sum(sha, out, parts...) })
}

func (s *State) sum(sha engine, out *[Size]byte, parts ...[]byte) {
	s.start(sha)
	s.total = 0
	for _, part := range parts {
		s.write(sha, part)
	}
	s.end(sha, out)
}

// start is the state before anything was hashed (FIPS 180-4, section 5.3.3).
func (s *State) start(sha engine) {
	sha.Reset()
	if h, err := sha.AppendBinary(s.h[:0]); err != nil || len(h) != len(s.h) {
		panic("crypto/sha256 has another encoding of its state than with Go 1.26")
	}
	s.filled = 0
}

func (s *State) write(sha engine, data []byte) {
	s.total += uint64(len(data))
	for len(data) > 0 {
		n := copy(s.block[s.filled:], data)
		data = data[n:]
		if s.filled += n; s.filled == blockSize {
			s.compress(sha)
			s.filled = 0
		}
	}
}

// end appends a one bit, zeros, and the length in bits, and gives the hash.
func (s *State) end(sha engine, out *[Size]byte) {
	s.block[s.filled] = 0x80
	clear(s.block[s.filled+1:])
	if s.filled >= blockSize-lengthSize {
		s.compress(sha)
		clear(s.block[:])
	}
	binary.BigEndian.PutUint64(s.block[blockSize-lengthSize:], 8*s.total)
	s.compress(sha)
	copy(out[:], s.h.words())
}

// setKey is the part of HMAC that depends on its key only.
func (s *State) setKey(sha engine, key []byte) {
	clear(s.pad[:])
	if len(key) > blockSize {
		s.sum(sha, &s.digest, key)
		key = s.digest[:]
	}
	copy(s.pad[:], key)
	for _, turn := range []struct {
		xor byte
		to  *chain
	}{{0x36, &s.inner}, {0x36 ^ 0x5c, &s.outer}} {
		for i := range s.pad {
			s.pad[i] ^= turn.xor
		}
		s.start(sha)
		s.write(sha, s.pad[:])
		*turn.to = s.h
	}
}

// mac is HMAC of parts, one after the other, with the key of setKey. out may be a part.
func (s *State) mac(sha engine, out *[Size]byte, parts ...[]byte) {
	s.h, s.filled, s.total = s.inner, 0, blockSize
	for _, part := range parts {
		s.write(sha, part)
	}
	s.end(sha, &s.digest)
	s.h, s.filled, s.total = s.outer, 0, blockSize
	s.write(sha, s.digest[:])
	s.end(sha, out)
}

// HKDF derives a key of Size bytes. The caller wipes it.
func (s *State) HKDF(secret, salt []byte, info string) []byte {
	out := make([]byte, Size)
	s.run(func(sha engine) {
		s.setKey(sha, salt)
		s.mac(sha, &s.a, secret) // extract
		s.setKey(sha, s.a[:])
		s.mac(sha, &s.b, []byte(info), []byte{1}) // expand, the first block
		copy(out, s.b[:])
	})
	return out
}

// PBKDF2 derives a key of n bytes. The caller wipes it.
func (s *State) PBKDF2(secret, salt []byte, iterations, n int) []byte {
	// No append may move it: each copy would have to be wiped.
	out := make([]byte, 0, (n+Size-1)/Size*Size)
	s.run(func(sha engine) {
		s.setKey(sha, secret)
		for i := 1; len(out) < n; i++ {
			var number [4]byte
			binary.BigEndian.PutUint32(number[:], uint32(i))
			s.mac(sha, &s.a, salt, number[:])
			s.b = s.a
			for range iterations - 1 {
				s.mac(sha, &s.a, s.a[:])
				for j := range s.b {
					s.b[j] ^= s.a[j]
				}
			}
			out = append(out, s.b[:]...)
		}
	})
	clear(out[n:cap(out)])
	return out[:n]
}
