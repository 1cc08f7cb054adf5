package luks2_test

import (
	"os"
	"path/filepath"
	"testing"

	"layervault/crypt/luks2"
)

// An image that was given a token since it was formatted is read back like any other.
func TestVerifyWithToken(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, key, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), []byte("pass"))
	if err != nil {
		t.Fatal(err)
	}
	clear(key)
	if _, err := h.SetToken(f, -1, []byte(`{"type":"test","keyslots":[]}`)); err != nil {
		t.Fatal(err)
	}
	if err := h.Verify(f); err != nil {
		t.Error(err)
	}
}
