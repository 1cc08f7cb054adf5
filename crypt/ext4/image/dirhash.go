package image

import "math/bits"

// hashHalfMD4 is DX_HASH_HALF_MD4; that bytes count as unsigned is said by a flag of
// the superblock.
const hashHalfMD4 = 1

// hashName is ext4's hash of a name in an indexed directory (fs/ext4/hash.c).
func hashName(name []byte, seed [4]uint32) uint32 {
	state := seed
	for rest := name; len(rest) > 0; rest = rest[min(32, len(rest)):] {
		state = halfMD4(state, hashWords(rest))
	}
	h := state[1] &^ 1
	if h == 0xfffffffe { // the end of a directory's hashes
		h -= 2
	}
	return h
}

// hashWords packs up to 32 bytes into words and fills up with the length.
func hashWords(s []byte) (words [8]uint32) {
	pad := uint32(len(s)) | uint32(len(s))<<8
	pad |= pad << 16
	for i := range words {
		words[i] = pad
	}
	for i := range min(len(s), 32) {
		if i%4 == 0 {
			words[i/4] = pad
		}
		words[i/4] = words[i/4]<<8 + uint32(s[i])
	}
	return words
}

// halfMD4 is three rounds of eight steps of MD4.
func halfMD4(state [4]uint32, in [8]uint32) [4]uint32 {
	a, b, c, d := state[0], state[1], state[2], state[3]
	for i, word := range [8]int{0, 1, 2, 3, 4, 5, 6, 7} {
		a += (d ^ (b & (c ^ d))) + in[word]
		a = bits.RotateLeft32(a, [4]int{3, 7, 11, 19}[i%4])
		a, b, c, d = d, a, b, c
	}
	for i, word := range [8]int{1, 3, 5, 7, 0, 2, 4, 6} {
		a += ((b & c) + ((b ^ c) & d)) + in[word] + 0x5a827999
		a = bits.RotateLeft32(a, [4]int{3, 5, 9, 13}[i%4])
		a, b, c, d = d, a, b, c
	}
	for i, word := range [8]int{3, 7, 2, 6, 1, 5, 0, 4} {
		a += (b ^ c ^ d) + in[word] + 0x6ed9eba1
		a = bits.RotateLeft32(a, [4]int{3, 9, 11, 15}[i%4])
		a, b, c, d = d, a, b, c
	}
	return [4]uint32{state[0] + a, state[1] + b, state[2] + c, state[3] + d}
}
