//go:build guest

package crypt_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/dm"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
)

// treeImage is a sealed image with one file of 300 pages of noise, closed.
func treeImage(t *testing.T) (d *testImage, uuid string, content []byte) {
	t.Helper()
	content = make([]byte, 300*verity.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	d = device(t, readOnly)
	d.making.FileSystem = crypt.Ext4 // whose content has a known place
	_, err := d.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"big": string(content)})))
	must(t, err)
	uuid, err = d.UUID()
	must(t, err)
	return d, uuid, content
}

// flipBlock changes one bit of the ciphertext of a block.
func (d *testImage) flipBlock(t *testing.T, block int64) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	at := luks2.DefaultDataOffset + block*verity.BlockSize + 1000
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	must(t, errors.Join(err, f.Sync()))
}

// inFile is a block of the file of treeImage: content begins behind the group descriptors.
const inFile = 65 + 100

// One bit of a sealed image is changed: an I/O error on that page, never other content, and the
// rest is readable.
func TestSealedTampered(t *testing.T) {
	d, uuid, content := treeImage(t)
	read := func(wantFailed bool) {
		t.Helper()
		must(t, d.get(t.Context()))
		failed, changed, err := pages(t, filepath.Join(d.mnt, "diff/big"), content)
		if err != nil || len(changed) > 0 || (len(failed) == 1) != wantFailed || len(failed) > 1 {
			t.Errorf("failed %v, changed %v, %v", failed, changed, err)
		}
		must(t, d.put())
		gone(t, uuid, d.Path)
	}
	read(false)
	d.flipBlock(t, inFile)
	read(true)
	d.flipBlock(t, inFile)
	read(false)
}

// Both devices of an open image are used again, and both go with the last mount.
func TestSealedTwice(t *testing.T) {
	d, uuid, _ := treeImage(t)
	must(t, d.get(t.Context()))
	table := sh(t, "dmsetup", "table", crypt.VerityName(uuid))
	if !strings.Contains(table, " verity 1 ") {
		t.Errorf("table: %s", table)
	}
	second := *d
	second.mnt = t.TempDir()
	must(t, second.get(t.Context()))
	var one, two unix.Stat_t
	must(t, errors.Join(unix.Stat(d.mnt, &one), unix.Stat(second.mnt, &two)))
	if one.Dev != two.Dev {
		t.Errorf("mounted from %x and %x", one.Dev, two.Dev)
	}
	must(t, d.put())
	must(t, second.put())
	gone(t, uuid, d.Path)
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	if _, err := control.Info(crypt.VerityName(uuid)); !errors.Is(err, dm.ErrNotExist) {
		t.Errorf("the verity device: %v", err)
	}
}

// A verity device of the image's name over something else is not used.
func TestSealedForeignTree(t *testing.T) {
	d, uuid, _ := treeImage(t)
	other, otherUUID, _ := treeImage(t)
	must(t, other.get(t.Context()))
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	table, err := control.Table(crypt.VerityName(otherUUID))
	must(t, err)
	name := crypt.VerityName(uuid)
	_, err = control.Create(name, "LAYERVAULT-VERITY-"+uuid)
	must(t, err)
	defer func() { must(t, control.Remove(name, false)) }()
	must(t, errors.Join(control.Load(name, true, table...), control.Resume(name)))
	if err := d.get(t.Context()); !errors.Is(err, crypt.ErrInUse) {
		t.Errorf("opened: %v", err)
	}
	must(t, other.put())
}

// Without its token, or with another image's, the image does not open.
func TestSealedTokenChanged(t *testing.T) {
	d, _, _ := treeImage(t)
	removeContent(t, d.Path)
	if err := d.get(t.Context()); !errors.Is(err, luks2.ErrNotAuthentic) || !strings.Contains(err.Error(), "tokens.1") {
		t.Errorf("opened without its tree: %v", err)
	}
}

// removeContent takes the token away that says how an image is read, as anyone can.
func removeContent(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	must(t, err)
	tokens, err := h.Tokens()
	must(t, err)
	for _, token := range tokens {
		if token.Type == "layervault-content" {
			must(t, h.RemoveToken(f, token.ID))
		}
	}
}

// A file that ends within the tree is named as cut off.
func TestSealedTreeCutOff(t *testing.T) {
	d, _, _ := treeImage(t)
	info, err := os.Stat(d.Path)
	must(t, err)
	must(t, os.Truncate(d.Path, info.Size()-verity.BlockSize))
	if err := d.get(t.Context()); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("opened: %v", err)
	}
}
