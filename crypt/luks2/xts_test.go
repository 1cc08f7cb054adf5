package luks2

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/xts"
)

func TestXTSMatchesXCrypto(t *testing.T) {
	for _, n := range []int{32, 64} {
		key := make([]byte, n)
		rand.Read(key)
		ours, err := newXTS(key)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := xts.NewCipher(aes.NewCipher, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, number := range []uint64{0, 1, 499, 1 << 40} {
			plain := make([]byte, areaSector)
			rand.Read(plain)
			want := make([]byte, areaSector)
			theirs.Encrypt(want, plain, number)
			got := bytes.Clone(plain)
			if ours.encrypt(got, number); !bytes.Equal(got, want) {
				t.Errorf("key of %d, sector %d: encrypts differently", n, number)
			}
			if ours.decrypt(got, number); !bytes.Equal(got, plain) {
				t.Errorf("key of %d, sector %d: does not decrypt", n, number)
			}
		}
	}
}

func BenchmarkAreaXTS(b *testing.B) {
	c, _ := newXTS(make([]byte, 64))
	area := make([]byte, afSize(64))
	b.SetBytes(int64(len(area)))
	for b.Loop() {
		cryptArea(area, c.decrypt)
	}
}

func BenchmarkAreaXTSXCrypto(b *testing.B) {
	c, _ := xts.NewCipher(aes.NewCipher, make([]byte, 64))
	area := make([]byte, afSize(64))
	b.SetBytes(int64(len(area)))
	for b.Loop() {
		cryptArea(area, func(s []byte, n uint64) { c.Decrypt(s, s, n) })
	}
}

func BenchmarkAFMerge(b *testing.B) {
	area := make([]byte, afSize(64))
	mk := newHash("sha256")
	b.SetBytes(int64(len(area)))
	for b.Loop() {
		afMerge(area, 64, mk)
	}
}
