package luks2

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// TestAdiantumVectors runs test vectors of the authors (github.com/google/adiantum,
// test_vectors/ours/Adiantum: some of each length that matters).
func TestAdiantumVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/adiantum.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Rounds                            int
		Key, Tweak, Plaintext, Ciphertext string
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 10 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for i, v := range vectors {
		plain, sealed := unhex(t, v.Plaintext), unhex(t, v.Ciphertext)
		c, err := newAdiantum(unhex(t, v.Key), v.Rounds)
		if err != nil {
			t.Fatal(err)
		}
		got := bytes.Clone(plain)
		if c.(*adiantumSectors).crypt(got, unhex(t, v.Tweak), true); !bytes.Equal(got, sealed) {
			t.Errorf("vector %d (%d bytes, %d rounds): encrypts to something else", i, len(plain), v.Rounds)
		}
		got = bytes.Clone(sealed)
		if c.(*adiantumSectors).crypt(got, unhex(t, v.Tweak), false); !bytes.Equal(got, plain) {
			t.Errorf("vector %d (%d bytes, %d rounds): decrypts to something else", i, len(plain), v.Rounds)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func BenchmarkAreaAdiantum(b *testing.B) {
	c, _ := newAdiantum(make([]byte, 32), 12)
	area := make([]byte, afSize(32))
	b.SetBytes(int64(len(area)))
	for b.Loop() {
		cryptArea(area, c.decrypt)
	}
}
