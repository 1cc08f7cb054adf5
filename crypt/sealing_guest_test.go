//go:build guest

package crypt_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
)

// With verity=require an image without a hash tree does not open, also where its device is open
// already; one with a tree does, if this kernel can make one.
func TestRequireVerity(t *testing.T) {
	d := sealed(t, crypt.Making{Params: crypt.Params{SectorSize: 512}})
	required := *d
	required.Verity, required.mnt = crypt.VerityRequire, t.TempDir()
	refused := func() {
		t.Helper()
		var refused *crypt.UnverifiedError
		if err := required.get(t.Context()); !errors.As(err, &refused) || !errors.Is(err, crypt.ErrNoTree) || refused.Owner != owner {
			t.Errorf("opened: %v", err)
			_ = required.put()
		}
	}
	uuid, err := d.UUID()
	must(t, err)
	refused()
	gone(t, uuid, d.Path)
	shows(t, d) // the control
	must(t, d.get(t.Context()))
	refused()
	must(t, d.put())

	again := device(t, readOnly)
	again.Verity, again.making.Params.SectorSize = crypt.VerityRequire, 512
	if _, err := again.load(t.Context(), bytes.NewReader(nil)); !errors.Is(err, crypt.ErrSmallSectors) {
		t.Errorf("made: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(again.Path))
	if err != nil || len(left) != 1 { // the mount point
		t.Errorf("left: %v, %v", left, err)
	}

	again.making.Params.SectorSize = 4096
	_, err = again.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"file": "text"})))
	if lacks(t) {
		if !errors.Is(err, crypt.ErrNoVerity) {
			t.Errorf("made without dm-verity: %v", err)
		}
		return
	}
	must(t, err)
	shows(t, again)
}

// An image opens as it was made, or not at all. On a kernel that lacks EROFS and dm-verity the
// error names what to load; on any other the same images open.
func TestKernelLacks(t *testing.T) {
	lacks := lacks(t)
	want := func(d *testImage, missing error, word string) {
		t.Helper()
		if !lacks {
			shows(t, d)
			return
		}
		uuid, err := d.UUID()
		must(t, err)
		if err := d.get(t.Context()); !errors.Is(err, missing) || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), d.Path) {
			t.Errorf("opened: %v", err)
			_ = d.put()
		}
		gone(t, uuid, d.Path)
	}
	if has, err := crypt.HasVerity(); err != nil || has == lacks || crypt.HasEROFS() == lacks {
		t.Fatalf("dm-verity %v, EROFS %v, %v", has, crypt.HasEROFS(), err)
	}
	want(sealed(t, crypt.Making{FileSystem: crypt.EROFS, Params: crypt.Params{SectorSize: 512}}), crypt.ErrNoEROFS, "CONFIG_EROFS_FS")

	// What such a kernel makes by itself is what it reads.
	own := sealed(t, crypt.Making{})
	shows(t, own)
	must(t, own.get(t.Context()))
	var st unix.Statfs_t
	must(t, unix.Statfs(own.mnt, &st))
	if isEROFS := st.Type == unix.EROFS_SUPER_MAGIC_V1; isEROFS == lacks {
		t.Errorf("file system %x", st.Type)
	}
	must(t, own.put())
	if lacks {
		uuid, err := own.UUID()
		must(t, err)
		gone(t, uuid, own.Path)
		giveTree(t, own)
	}
	want(own, crypt.ErrNoVerity, "CONFIG_DM_VERITY")
}

// lacks says whether this kernel was told to go without EROFS and dm-verity.
func lacks(t *testing.T) bool {
	t.Helper()
	line, err := os.ReadFile("/proc/cmdline")
	must(t, err)
	return strings.Contains(string(line), "initcall_blacklist=erofs_module_init,dm_verity_init")
}

// sealed is a sealed image with one file, closed.
func sealed(t *testing.T, m crypt.Making) *testImage {
	t.Helper()
	d := device(t, readOnly)
	d.making = m
	_, err := d.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"file": "text"})))
	must(t, err)
	return d
}

// shows opens an image that has one file, reads it and closes the image.
func shows(t *testing.T, d *testImage) {
	t.Helper()
	must(t, d.get(t.Context()))
	if b, err := os.ReadFile(filepath.Join(d.mnt, "diff/file")); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	must(t, d.put())
}

// giveTree writes into the header of an ext4 image, as another kernel would have, that it has a
// hash tree.
func giveTree(t *testing.T, d *testImage) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	info, err := f.Stat()
	must(t, err)
	blocks := uint64(info.Size()-luks2.DefaultDataOffset) / verity.BlockSize
	tree := verity.Tree{DataBlocks: blocks, HashStart: blocks}
	must(t, f.Truncate(luks2.DefaultDataOffset+tree.End()))
	encoded, err := tree.MarshalBinary()
	must(t, err)
	token, err := json.Marshal(map[string]any{"type": "layervault-content", "keyslots": []string{}, "version": 1, "filesystem": "ext4", "tree": encoded})
	must(t, err)
	h, err := luks2.Read(f)
	must(t, err)
	must(t, h.SetSealedToken(f, owner, mustPass(t, h.Format(), h.UUID()), token))
}
