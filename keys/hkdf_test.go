package keys

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// RFC 5869, appendix A, test cases 1 and 3 (whose first 32 bytes are ours).
func TestHKDFVectors(t *testing.T) {
	ikm := bytes.Repeat([]byte{0x0b}, 22)
	for _, tc := range []struct{ salt, info, want string }{
		{"000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9", "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"},
		{"", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"},
	} {
		salt, err := hex.DecodeString(tc.salt)
		if err != nil {
			t.Fatal(err)
		}
		info, err := hex.DecodeString(tc.info)
		if err != nil {
			t.Fatal(err)
		}
		mem := make([]byte, hkdfStateSize)
		if got := hkdfIn(mem).deriveKey(ikm, salt, string(info)); hex.EncodeToString(got) != tc.want {
			t.Errorf("%x, want %s", got, tc.want)
		}
		if !bytes.Equal(mem, make([]byte, len(mem))) {
			t.Error("the state is not wiped")
		}
	}
}

// FIPS 180-4's examples, and parts that are one message.
func TestSHA256(t *testing.T) {
	for text, want := range map[string]string{
		"":    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
	} {
		sum, err := SHA256([]byte(text[:len(text)/2]), []byte(text[len(text)/2:]))
		if err != nil || hex.EncodeToString(sum[:]) != want {
			t.Errorf("%q: %x, %v", text, sum, err)
		}
	}
}

// What we derive is what the standard library derives, whatever goes in.
func FuzzHKDF(f *testing.F) {
	for n := range 140 { // across the edges of blocks
		f.Add(bytes.Repeat([]byte{7}, n), bytes.Repeat([]byte{9}, n%65), string(bytes.Repeat([]byte{'i'}, 139-n)))
	}
	f.Fuzz(func(t *testing.T, secret, salt []byte, info string) {
		if len(salt) > 64 {
			salt = salt[:64]
		}
		want, err := hkdf.Key(sha256.New, secret, salt, info, 32)
		if err != nil {
			t.Fatal(err)
		}
		if got := hkdfIn(make([]byte, hkdfStateSize)).deriveKey(secret, salt, info); !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	})
}
