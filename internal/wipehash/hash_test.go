package wipehash_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"layervault/internal/wipehash"
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
		mem := make([]byte, wipehash.StateSize)
		if got := wipehash.In(mem).HKDF(ikm, salt, string(info)); hex.EncodeToString(got) != tc.want {
			t.Errorf("%x, want %s", got, tc.want)
		}
		if !bytes.Equal(mem, make([]byte, len(mem))) {
			t.Error("the state is not wiped")
		}
	}
}

// FIPS 180-4's examples, and parts that are one message.
func TestSum(t *testing.T) {
	for text, want := range map[string]string{
		"":    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
	} {
		var s wipehash.State
		var sum [wipehash.Size]byte
		s.Sum(&sum, []byte(text[:len(text)/2]), []byte(text[len(text)/2:]))
		if hex.EncodeToString(sum[:]) != want {
			t.Errorf("%q: %x", text, sum)
		}
		s.Wipe()
		if s != (wipehash.State{}) {
			t.Error("the state is not wiped")
		}
	}
}

// One state may be used again without being wiped.
func TestSumTwice(t *testing.T) {
	var s wipehash.State
	for n := range 300 {
		data := bytes.Repeat([]byte{byte(n)}, n)
		var sum [wipehash.Size]byte
		if s.Sum(&sum, data); sum != sha256.Sum256(data) {
			t.Errorf("%d bytes: %x", n, sum)
		}
	}
}

// What we derive is what the standard library derives, whatever goes in.
func FuzzDerive(f *testing.F) {
	for n := range 140 { // across the edges of blocks
		f.Add(bytes.Repeat([]byte{7}, n), bytes.Repeat([]byte{9}, n), string(bytes.Repeat([]byte{'i'}, 139-n)), n)
	}
	f.Fuzz(func(t *testing.T, secret, salt []byte, info string, n int) {
		want, err := hkdf.Key(sha256.New, secret, salt, info, wipehash.Size)
		if err != nil {
			t.Fatal(err)
		}
		var s wipehash.State
		if got := s.HKDF(secret, salt, info); !bytes.Equal(got, want) {
			t.Errorf("HKDF: %x, want %x", got, want)
		}
		n = max(1, n%200)
		if want, err = pbkdf2.Key(sha256.New, string(secret), salt, n, n); err != nil {
			t.Fatal(err)
		}
		if got := s.PBKDF2(secret, salt, n, n); !bytes.Equal(got, want) {
			t.Errorf("PBKDF2: %x, want %x", got, want)
		}
		if s != (wipehash.State{}) {
			t.Error("the state is not wiped")
		}
	})
}

func BenchmarkPBKDF2(b *testing.B) {
	for b.Loop() {
		new(wipehash.State).PBKDF2(make([]byte, 64), make([]byte, 32), 1000, 64)
	}
}

func BenchmarkPBKDF2OfTheStandardLibrary(b *testing.B) {
	for b.Loop() {
		if _, err := pbkdf2.Key(sha256.New, string(make([]byte, 64)), make([]byte, 32), 1000, 64); err != nil {
			b.Fatal(err)
		}
	}
}

// Keys shorter and longer than a block, messages around a block's border, in one part and
// in two, as the standard library has it; and RFC 4231, test case 2.
func TestHMAC(t *testing.T) {
	var out [wipehash.Size]byte
	var s wipehash.State
	s.HMAC(&out, []byte("Jefe"), []byte("what do ya want "), []byte("for nothing?"))
	if got := hex.EncodeToString(out[:]); got != "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" {
		t.Errorf("RFC 4231: %s", got)
	}
	for _, keySize := range []int{0, 1, 32, 63, 64, 65, 200} {
		key := bytes.Repeat([]byte{byte(keySize), 0xa5}, keySize)[:keySize]
		for size := range 200 {
			data := bytes.Repeat([]byte{byte(size), 0x5a}, size)
			want := hmac.New(sha256.New, key)
			want.Write(data)
			mem := make([]byte, wipehash.StateSize)
			for _, cut := range []int{0, size / 2, size} {
				wipehash.In(mem).HMAC(&out, key, data[:cut], data[cut:])
				if !hmac.Equal(out[:], want.Sum(nil)) {
					t.Fatalf("key of %d, message of %d bytes cut at %d: %x", keySize, size, cut, out)
				}
			}
			if !bytes.Equal(mem, make([]byte, len(mem))) {
				t.Fatal("the state is not wiped")
			}
		}
	}
}
