package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
)

// What is ours keeps a new ring away, and nothing else does: EVE's volumes, and whatever
// lies about, have no key that could be lost.
func TestRefuseIfUsed(t *testing.T) {
	const u = "2cf8f72c-6200-4c94-a8f9-3625fbce7b94"
	luks := append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 100)...)
	second := append(bytes.Repeat([]byte{7}, 0x4000), "SKUL\xba\xbe\x00\x02"...)
	for _, tt := range []struct {
		path    string // ends with / for a folder
		content []byte
		ours    bool
	}{
		{"layers/abc/", nil, true},
		{"layers/README", nil, false},
		{"layers/lost+found/", nil, false},
		{"layers/.tmp-abc/", nil, false},
		{"volumes/" + u + "#0", luks, true},
		{"volumes/" + u + "#0", []byte("its header is gone"), true},
		{"volumes/old", luks, true},
		{"volumes/old", second, true},
		{"volumes/old", second[:0x4000+3], false},
		{"volumes/" + u + "#0.qcow2", []byte("QFI\xfb"), false},
		{"volumes/" + u + "#0.raw", luks, false}, // of a guest
		{"volumes/" + u + "#2.container/", nil, false},
		{"volumes/7A1D0000-0000-4000-8000-00000000000A#0", []byte("raw"), false},
		{"volumes/." + u + "#0.tmp-1", luks, false},
		{"volumes/lost+found/", nil, false},
		{"disks/own.img", luks, true},
		{"disks/plain.img", bytes.Repeat([]byte{7}, 1<<16), false},
		{"disks/folder/", nil, false},
	} {
		tier := t.TempDir()
		path := filepath.Join(tier, tt.path)
		var err error
		if tt.path[len(tt.path)-1] == '/' {
			err = os.MkdirAll(path, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, tt.content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.RefuseIfUsed(tier); errors.Is(err, keys.ErrRingLost) != tt.ours || !tt.ours && err != nil {
			t.Errorf("%s (%.10q): %v, ours %v", tt.path, tt.content, err, tt.ours)
		}
	}
}
