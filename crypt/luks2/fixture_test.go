package luks2_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"testing"

	"layervault/crypt/luks2"
)

// TestFixtures reads headers that were made once, by cryptsetup and by this package,
// and frozen; testdata/make.go says how.
func TestFixtures(t *testing.T) {
	text, err := os.ReadFile("testdata/fixtures.json")
	must(t, err)
	var fixtures []struct {
		Name, Passphrase, UUID, VolumeKey string
		Segment                           luks2.Segment
		Owner                             *luks2.Owner
	}
	must(t, json.Unmarshal(text, &fixtures))
	if len(fixtures) < 7 {
		t.Fatalf("only %d fixtures", len(fixtures))
	}
	for _, fix := range fixtures {
		t.Run(fix.Name, func(t *testing.T) {
			packed, err := os.ReadFile("testdata/" + fix.Name + ".gz")
			must(t, err)
			z, err := gzip.NewReader(bytes.NewReader(packed))
			must(t, err)
			image, err := io.ReadAll(z)
			must(t, err)
			r := bytes.NewReader(image)
			h := mustRead(t, r)
			if h.NeedsRepair() || h.UUID() != fix.UUID || h.Segment() != fix.Segment {
				t.Errorf("damage %v, UUID %s, segment %+v, want %s, %+v", h.Damage(), h.UUID(), h.Segment(), fix.UUID, fix.Segment)
			}
			key, _, err := h.Unlock(r, []byte(fix.Passphrase))
			if err != nil || hex.EncodeToString(key) != fix.VolumeKey {
				t.Errorf("Unlock: %v", err)
			}
			if fix.Owner == nil {
				if h.Format() != luks2.Format1 {
					t.Errorf("format %d", h.Format())
				}
				return
			}
			if err := h.Authentic(*fix.Owner, []byte(fix.Passphrase)); err != nil || h.Format() != luks2.Format2 {
				t.Errorf("format %d: %v", h.Format(), err)
			}
			must(t, h.CheckOwn())
		})
	}
}
