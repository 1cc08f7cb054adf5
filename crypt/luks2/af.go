package luks2

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
)

// afStripes is how many times its own size a key takes on disk: the anti-forensic
// splitter (LUKS1 specification, section 2.4) spreads it so that losing any part
// of the area loses the key. The format fixes 4000.
const afStripes = 4000

// afSplit fills out, len(key) * afStripes bytes, with what merges to key.
func afSplit(out, key []byte) {
	n := len(key)
	last := out[n*(afStripes-1):]
	rand.Read(out[:n*(afStripes-1)])
	acc := make([]byte, n)
	afAccumulate(acc, out, sha256.New)
	subtle.XORBytes(last, acc, key)
	clear(acc)
}

// afMerge recovers a key of n bytes from n * afStripes bytes. The caller wipes it.
func afMerge(split []byte, n int, mk func() hash.Hash) []byte {
	acc := make([]byte, n)
	afAccumulate(acc, split, mk)
	subtle.XORBytes(acc, acc, split[n*(afStripes-1):n*afStripes])
	return acc
}

// afAccumulate folds all stripes but the last into acc. Its memory is one call's alone, and the race
// detector would look at each of a thousand stripes.
//
//go:norace
func afAccumulate(acc, split []byte, mk func() hash.Hash) {
	n := len(acc)
	h := mk()
	var in [4 + maxHashSize]byte
	var out [maxHashSize]byte
	size := h.Size()
	isSHA256 := size == sha256.Size // Sum256 keeps its state on the stack: twice as fast
	for i := range afStripes - 1 {
		subtle.XORBytes(acc, acc, split[i*n:(i+1)*n])
		// diffuse: each hash-sized piece becomes the hash of its number and itself.
		for piece := 0; piece*size < n; piece++ {
			binary.BigEndian.PutUint32(in[:], uint32(piece))
			part := acc[piece*size : min((piece+1)*size, n)]
			m := 4 + copy(in[4:], part)
			if isSHA256 {
				sum := sha256.Sum256(in[:m])
				copy(part, sum[:])
				continue
			}
			h.Reset()
			h.Write(in[:m])
			copy(part, h.Sum(out[:0]))
		}
	}
	clear(in[:])
	clear(out[:])
}

const maxHashSize = 64
