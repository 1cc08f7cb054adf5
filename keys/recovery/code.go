// Package recovery keeps a tier key with something a person types: a generated key of
// 256 bits, or a passphrase the person chose.
package recovery

import (
	"crypto/rand"
	"fmt"
	"strings"
)

// A recovery key as people see it: 256 bits in eight groups of eight characters of
// Crockford's base 32 (no I, L, O, U; upper and lower case are the same, O reads as 0,
// I and L as 1). Each group is 4 bytes of key and 1 byte of checksum, 40 bits = 8
// characters, so a typo is found in the group where it is:
//
//	91JPRV3F-41BPYWKC-CGH0QGV8-...
//
// The checksum is a CRC-8 (polynomial x^8+x^2+x+1) over the group's number and bytes:
// it finds every single wrong character and every swap of two neighbours, and swapped
// groups; anything else with 255 in 256.
const (
	groups     = 8
	groupBytes = 4
	groupChars = 8
	alphabet   = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// Generate makes a recovery key as text, from 32 random bytes.
func Generate() []byte {
	raw := make([]byte, groups*groupBytes)
	defer clear(raw)
	_, _ = rand.Read(raw) // never fails since Go 1.24
	return encode(raw)
}

// encode makes the text of 32 bytes.
func encode(raw []byte) []byte {
	out := make([]byte, 0, groups*(groupChars+1))
	for g := range groups {
		if g > 0 {
			out = append(out, '-')
		}
		part := raw[g*groupBytes:][:groupBytes]
		bits := uint64(crc8(g, part))
		for i, b := range part {
			bits |= uint64(b) << (8 * (groupBytes - i))
		}
		for i := groupChars - 1; i >= 0; i-- {
			out = append(out, alphabet[bits>>(5*i)&31])
		}
	}
	return out
}

// Decode reads a recovery key, with or without dashes and white space, in either case.
// It returns the 32 bytes, which the caller wipes, or a *BadRecovery that names
// the mistyped groups.
func Decode(text []byte) ([]byte, error) {
	var digits []byte
	defer func() { clear(digits) }()
	digits = make([]byte, 0, groups*groupChars)
	var bad []int // groups with a character that is in no recovery key
	for _, c := range string(text) {
		if strings.ContainsRune("- \t\r\n", c) {
			continue
		}
		if len(digits) == groups*groupChars {
			return nil, &BadRecovery{Reason: fmt.Sprintf("longer than %d characters", groups*groupChars)}
		}
		v, ok := digit(c)
		if !ok {
			bad = appendGroup(bad, len(digits)/groupChars+1)
		}
		digits = append(digits, v)
	}
	if len(digits) != groups*groupChars {
		return nil, &BadRecovery{Reason: fmt.Sprintf("%d characters, a recovery key has %d groups of %d",
			len(digits), groups, groupChars)}
	}
	raw := make([]byte, groups*groupBytes)
	for g := range groups {
		var bits uint64
		for _, v := range digits[g*groupChars:][:groupChars] {
			bits = bits<<5 | uint64(v)
		}
		part := raw[g*groupBytes:][:groupBytes]
		for i := range part {
			part[i] = byte(bits >> (8 * (groupBytes - i)))
		}
		if crc8(g, part) != byte(bits) {
			bad = appendGroup(bad, g+1)
		}
	}
	if len(bad) > 0 {
		clear(raw)
		return nil, &BadRecovery{Groups: bad, Reason: "typing mistake in group " + join(bad)}
	}
	return raw, nil
}

// digit reads one character of Crockford's base 32.
func digit(c rune) (byte, bool) {
	switch c {
	case 'o', 'O':
		return 0, true
	case 'i', 'I', 'l', 'L':
		return 1, true
	}
	if c > 'z' {
		return 0, false
	}
	i := strings.IndexByte(alphabet, strings.ToUpper(string(c))[0])
	return byte(max(i, 0)), i >= 0
}

func appendGroup(bad []int, g int) []int {
	for i, b := range bad {
		if b == g {
			return bad
		}
		if b > g {
			return append(bad[:i:i], append([]int{g}, bad[i:]...)...)
		}
	}
	return append(bad, g)
}

func join(groups []int) string {
	parts := make([]string, len(groups))
	for i, g := range groups {
		parts[i] = fmt.Sprint(g)
	}
	return strings.Join(parts, ", ")
}

// crc8 is the CRC-8 of the group's number (from 0) followed by its bytes.
func crc8(group int, part []byte) byte {
	const polynomial = 0x07
	crc := byte(group + 1)
	for i := -1; i < len(part); i++ {
		if i >= 0 {
			crc ^= part[i]
		}
		for range 8 {
			carry := crc&0x80 != 0
			crc <<= 1
			if carry {
				crc ^= polynomial
			}
		}
	}
	return crc
}
