package keys_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/versatile"
)

// A ring in the middle of a rotation, as an earlier version wrote it, gives both keys for
// ever: the update of a machine may come between a power cut and the rotation's end.
func TestFrozenRotationsEnd(t *testing.T) {
	for _, frozen := range []string{"testdata/format1-rotating", "testdata/format2-rotating"} {
		t.Run(frozen, func(t *testing.T) { endsFrozen(t, frozen) })
	}
}

func endsFrozen(t *testing.T, frozen string) {
	dir := t.TempDir()
	for _, name := range []string{"keyring.json", "versatile.key"} {
		write(t, filepath.Join(dir, name), read(t, filepath.Join(frozen, name)))
	}
	line := func(name string) []byte {
		return bytes.TrimSpace(read(t, filepath.Join(frozen, name)))
	}
	p := versatile.New(filepath.Join(dir, "versatile.key"))
	ring, key := reload(t, filepath.Join(dir, "keyring.json"), p)
	if !ring.Rotating() {
		t.Fatal("the rotation is forgotten")
	}
	image := &sample{name: "0123456789abcdef", step: func(string) error { return nil }, pass: [][]byte{line("passphrase-before.txt")}}
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: []keys.Image{image}}); err != nil {
		t.Fatal(err)
	}
	if len(image.pass) != 1 || !bytes.Equal(image.pass[0], line("passphrase-after.txt")) {
		t.Fatal("the keys give other passphrases than they did")
	}
}
