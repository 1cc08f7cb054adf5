package crypt_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/crypt"
	"layervault/crypt/luks2"
)

// A VirtualDevice is an Image: the same file, key and owner, and the same errors.
func TestVirtualDevice(t *testing.T) {
	im := blank(t, luks2.Format2)
	d := &crypt.VirtualDevice{
		Image: crypt.RawImage{ImagePath: im.Path}, Name: "test", Type: crypt.TypeSealed,
		Deviceparams: crypt.DeviceParams{FsType: "ext4", Mnt: im.mnt}, Owner: owner, Key: passphrase,
	}
	var api crypt.DeviceAPI = d
	for verb, err := range map[string]error{
		"Create": api.Create(t.Context(), 32<<20), "ImportData": api.ImportData(t.Context(), strings.NewReader("")),
	} {
		if !errors.Is(err, crypt.ErrExists) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	d.Owner.ID = "other"
	if err := d.Get(t.Context()); !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Errorf("as another's image: %v", err)
	}
	for what, change := range map[string]func(d *crypt.VirtualDevice){
		"type":        func(d *crypt.VirtualDevice) { d.Type = "type-crypt" },
		"file system": func(d *crypt.VirtualDevice) { d.Deviceparams.FsType = "xfs" },
	} {
		bad := *d
		change(&bad)
		if err := bad.Get(t.Context()); !errors.Is(err, crypt.ErrBadParams) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := d.Put(t.Context()); err != nil { // not mounted
		t.Error(err)
	}
	if err := d.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(im.Path)); err != nil || len(left) > 0 {
		t.Errorf("after Remove: %v, %v", left, err)
	}
}
