package luks2

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// maxHeaderMemory bounds what reading, checking and authenticating one header may allocate,
// in bytes, whatever is in it: some 200 for each of maxValues, four times, and the copies.
const maxHeaderMemory = 96 << 20

// FuzzHeader gives the bytes of a file to everything that looks at a header before a key
// vouches for it.
func FuzzHeader(f *testing.F) {
	files, err := filepath.Glob("testdata/*.gz")
	if err != nil || len(files) < 7 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		f.Add([]byte(fixture(f, name)[:2*DefaultMetadataSize]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := allocated()
		h, err := Read(bytes.NewReader(data))
		if err == nil {
			_ = h.CheckOwn()
			_ = h.Segment()
			_, _ = h.Owner()
			if h.Authentic(frozenOwner, []byte("wrong")) == nil {
				t.Error("authentic with a wrong key")
			}
		}
		if used := allocated() - before; used > maxHeaderMemory {
			t.Errorf("%d MiB for %d bytes", used>>20, len(data))
		}
	})
}

// fixture is a frozen image. What is made anew would be another one in each of the
// processes that fuzz.
func fixture(t testing.TB, name string) memFile {
	t.Helper()
	packed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// What the frozen image of format 2 was made with.
var (
	frozenOwner = Owner{"volume", "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3a#3"}
	frozenPass  = []byte("open ours-format2")
)

const frozen = "testdata/ours-format2.gz"

// FuzzHeaderText is FuzzHeader for the JSON: the checksums are made right.
func FuzzHeaderText(f *testing.F) {
	image := fixture(f, frozen)
	f.Add(mustText(f, image))
	doc, err := decodeTree(mustText(f, image))
	if err != nil {
		f.Fatal(err)
	}
	for section := range doc {
		delete(doc, section)
		text, err := encodeTree(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > DefaultMetadataSize-binLen-1 {
			return
		}
		before := allocated()
		evil := forge(t, image, text)
		h, err := Read(evil)
		if err != nil {
			return
		}
		_ = h.CheckOwn()
		// Whoever has no key changes nothing that decides how the image is read.
		if err := h.Authentic(frozenOwner, frozenPass); err == nil {
			same, err := Read(image)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := leavesOf(h.meta.doc)
			b, _ := leavesOf(same.meta.doc)
			if !bytes.Equal(canonical(nil, a, ""), canonical(nil, b, "")) {
				t.Errorf("authentic, and another header: %s", text)
			}
		}
		if used := allocated() - before; used > maxHeaderMemory {
			t.Errorf("%d MiB for %d bytes", used>>20, len(text))
		}
	})
}

// FuzzImageToken gives JSON to the parser of the token.
func FuzzImageToken(f *testing.F) {
	image := fixture(f, frozen)
	doc, err := decodeTree(mustText(f, image))
	if err != nil {
		f.Fatal(err)
	}
	text, err := encodeTree(at(doc, "tokens", "1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"type":"layervault-image","keyslots":[],"version":2,"kind":"layer","id":"aaaa","mac":"","next":"","fields":{}}`))
	f.Add([]byte(`{"type":"layervault-image","keyslots":[],"version":3}`))
	f.Add([]byte(`{"type":"layervault-image","keyslots":[],"version":"2","fields":[1,2],"mac":{}}`))
	f.Fuzz(func(t *testing.T, token []byte) {
		obj, err := decodeTree(token)
		if err != nil {
			return
		}
		at(doc, "tokens")["1"] = obj
		text, err := encodeTree(doc)
		if err != nil || len(text) > DefaultMetadataSize-binLen-1 {
			return
		}
		h, err := Read(forge(t, image, text))
		if err != nil {
			return
		}
		if h.Authentic(frozenOwner, frozenPass) == nil {
			got, err := h.imageToken()
			if err != nil || got.Kind != frozenOwner.Kind || got.ID != frozenOwner.ID || len(got.MAC) != 64 {
				t.Errorf("authentic: %+v, %v", got, err)
			}
		}
	})
}

// A header that is as large as may be, of nothing but values, is refused before it fills
// the memory.
func TestHeaderMemory(t *testing.T) {
	size := headerSizes[len(headerSizes)-1]
	body := []byte(`{"x":[` + strings.Repeat(`{"":1},`, int(size-binLen)/7-4) + `1]}`)
	bin := binHeader{size: size, seqID: 1, uuid: "x", csumAlg: "sha256"}
	raw, err := bin.encode(0, [saltLen]byte{}, body)
	if err != nil {
		t.Fatal(err)
	}
	before := allocated()
	if _, err := Read(bytes.NewReader(raw)); err == nil {
		t.Error("it is read")
	}
	if used := allocated() - before; used > maxHeaderMemory {
		t.Errorf("%d MiB", used>>20)
	}
}

// allocated is how many bytes this process has allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
