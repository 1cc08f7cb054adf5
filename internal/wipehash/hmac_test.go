package wipehash

import (
	"crypto/hmac"
	"crypto/sha256"
	"testing"
)

// HMAC is the standard library's, for keys shorter and longer than a block and for data in
// any number of parts, and leaves nothing of the key.
func TestHMAC(t *testing.T) {
	for _, keyLen := range []int{0, 1, 32, 64, 65, 200} {
		for _, dataLen := range []int{0, 1, 55, 64, 119, 1000} {
			key, data := make([]byte, keyLen), make([]byte, dataLen)
			for i := range key {
				key[i] = byte(i + 1)
			}
			for i := range data {
				data[i] = byte(3 * i)
			}
			want := hmac.New(sha256.New, key)
			want.Write(data)
			var s State
			got := s.HMAC(key, data[:dataLen/3], nil, data[dataLen/3:])
			if !hmac.Equal(got[:], want.Sum(nil)) {
				t.Errorf("key of %d, data of %d bytes: %x", keyLen, dataLen, got)
			}
			if s != (State{}) {
				t.Errorf("key of %d, data of %d bytes: the state is not wiped", keyLen, dataLen)
			}
		}
	}
}
