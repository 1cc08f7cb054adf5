package luks2

import (
	"encoding/binary"
	"math/bits"
)

// polyKey is the r of Poly1305 (RFC 8439, section 2.5), clamped. Adiantum uses the bare
// polynomial, without the s that makes it an authenticator, which is why none of
// the public packages fits.
type polyKey [2]uint64

func newPolyKey(b []byte) polyKey {
	return polyKey{
		binary.LittleEndian.Uint64(b) & 0x0ffffffc0fffffff,
		binary.LittleEndian.Uint64(b[8:]) & 0x0ffffffc0ffffffc,
	}
}

// polySum is the running value modulo 2^130 - 5, not fully reduced, least word first.
type polySum [3]uint64

// update takes whole blocks of 16 bytes: h = (h + block + 2^128) * r.
func (h *polySum) update(r polyKey, msg []byte) {
	for ; len(msg) >= 16; msg = msg[16:] {
		var carry uint64
		h[0], carry = bits.Add64(h[0], binary.LittleEndian.Uint64(msg), 0)
		h[1], carry = bits.Add64(h[1], binary.LittleEndian.Uint64(msg[8:]), carry)
		h[2] += carry + 1
		h.multiply(r)
	}
}

// multiply by r. h[2] is below 8 and the words of r are below 2^60, so h[2]*r fits in 64
// bits and no column overflows 128.
func (h *polySum) multiply(r polyKey) {
	hi00, lo00 := bits.Mul64(h[0], r[0])
	hi10, lo10 := bits.Mul64(h[1], r[0])
	hi01, lo01 := bits.Mul64(h[0], r[1])
	hi11, lo11 := bits.Mul64(h[1], r[1])
	t0 := lo00
	t1, c := bits.Add64(lo10, lo01, 0)
	hi1, _ := bits.Add64(hi10, hi01, c)
	t1, c = bits.Add64(t1, hi00, 0)
	hi1 += c
	t2, c := bits.Add64(lo11, h[2]*r[0], 0)
	t3, _ := bits.Add64(hi11, h[2]*r[1], c)
	t2, c = bits.Add64(t2, hi1, 0)
	t3 += c
	// 2^130 = 5: what is above bit 130 comes back five times, as 4x + x.
	h[0], h[1], h[2] = t0, t1, t2&3
	above0, above1 := t2&^3, t3
	h[0], c = bits.Add64(h[0], above0, 0)
	h[1], c = bits.Add64(h[1], above1, c)
	h[2] += c
	above0, above1 = above0>>2|above1<<62, above1>>2
	h[0], c = bits.Add64(h[0], above0, 0)
	h[1], c = bits.Add64(h[1], above1, c)
	h[2] += c
}

// sum reduces fully and gives the value modulo 2^128.
func (h *polySum) sum() (lo, hi uint64) {
	m0, b := bits.Sub64(h[0], ^uint64(4), 0) // 2^130 - 5
	m1, b := bits.Sub64(h[1], ^uint64(0), b)
	_, b = bits.Sub64(h[2], 3, b)
	keep := -b // all ones if h was below the modulus
	return h[0]&keep | m0&^keep, h[1]&keep | m1&^keep
}
