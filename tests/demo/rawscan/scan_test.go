package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testMarkers() (text string, lv, plain []byte) {
	lv = bytes.Repeat([]byte{0xA5}, markerSize)
	plain = bytes.Repeat([]byte{0xA5}, markerSize)
	copy(lv[prefixSize:], "through-layervlt")
	copy(plain[prefixSize:], "through-overlay2")
	return fmt.Sprintf("layervault build %s\noverlay2 build %s\n", hex.EncodeToString(lv), hex.EncodeToString(plain)), lv, plain
}

func TestVerdict(t *testing.T) {
	text, lv, plain := testMarkers()
	for name, c := range map[string]struct {
		disk []byte
		ok   bool
	}{
		"only the control is there":                  {append(make([]byte, 1000), plain...), true},
		"the control is not there":                   {make([]byte, 1000), false},
		"both are there":                             {append(append([]byte("x"), plain...), lv...), false},
		"a marker is cut off at the end of the disk": {append(append([]byte{}, plain...), lv[:20]...), false},
		"a marker is garbled":                        {append(append([]byte{}, plain...), append(lv[:20:20], make([]byte, 40)...)...), false},
	} {
		t.Run(name, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, c.disk, 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			ok, err := check(disk, strings.NewReader(text), &out)
			if err != nil || ok != c.ok {
				t.Errorf("got %v, %v, want %v\n%s", ok, err, c.ok, out.String())
			}
		})
	}
}

// A marker counts once wherever it lies in relation to the reads.
func TestScanAcrossReads(t *testing.T) {
	text, lv, _ := testMarkers()
	list, err := parseMarkers(text)
	if err != nil {
		t.Fatal(err)
	}
	for shift := -2 * markerSize; shift <= 2*markerSize; shift++ {
		disk := io.MultiReader(io.LimitReader(zeros{}, int64(readSize+shift)), bytes.NewReader(lv), io.LimitReader(zeros{}, 100))
		found, unknown, err := scan(disk, list)
		if err != nil || unknown != 0 || found[[markerSize]byte(lv)] != 1 {
			t.Errorf("shift %d: found %d, unknown %d, %v", shift, found[[markerSize]byte(lv)], unknown, err)
		}
	}
}

func TestParseMarkersRefuses(t *testing.T) {
	text, lv, _ := testMarkers()
	other := hex.EncodeToString(bytes.Repeat([]byte{1}, markerSize))
	for name, bad := range map[string]string{
		"nothing":        "",
		"no control":     "layervault build " + hex.EncodeToString(lv) + "\n",
		"a short one":    text + "overlay2 load aabb\n",
		"another prefix": text + "overlay2 load " + other + "\n",
		"two words":      "layervault build\n",
	} {
		if _, err := parseMarkers(bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
