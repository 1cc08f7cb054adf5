package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
)

// luksMagic begins every LUKS image.
const luksMagic = "LUKS\xba\xbe"

// finish finishes a rotation, or rotates.
func finish(t *testing.T, dir string) {
	t.Helper()
	must(t, vaulttest.Rotate(t.Context(), dir, nil))
}

// A step that fails, at each in turn, leaves what the next try finishes.
func TestRotateFailsAtEachStep(t *testing.T) {
	errStop := errors.New("this step failed")
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 1)
	for at := 0; ; at++ {
		old, _ := vaulttest.Open(t, dir)
		b := &vaulttest.Breaking{Left: at, Stop: func() error { return errStop }}
		if err := vaulttest.Rotate(t.Context(), dir, b); err == nil {
			if at < 15 {
				t.Fatalf("only %d steps", at)
			}
			return
		}
		finish(t, dir)
		key, ring := vaulttest.Open(t, dir)
		if ring.Proves(old) == nil { // it failed before it began, and has now been done
			t.Fatalf("step %d: the old key stays", at)
		}
		vaulttest.CheckImages(t, fmt.Sprintf("step %d", at), dir, key, old, 1)
	}
}

// write makes a file with the folders above it.
func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

// The images of a rotation are derived as the layer store derives them. A broken image that
// is not used is no hindrance.
func TestLayerImages(t *testing.T) {
	dir := t.TempDir()
	vaulttest.New(t, dir, 2)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddLayer(t, dir, key, "imported", layer.Fresh, luks2.Format2)
	for _, junk := range []string{"layers/.tmp-x/image.luks", "layers/fresh/layer.json"} {
		write(t, filepath.Join(dir, "vault", junk), "")
	}
	images, err := vaulttest.Contents(dir).Images()
	if err != nil || len(images) != 3 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	r, err := layer.OpenReader(filepath.Join(dir, "vault", "layers"))
	must(t, err)
	defer r.Close()
	for _, im := range images {
		if im.Unused != (im.ID == "imported") {
			t.Errorf("%s: unused %v", im.ID, im.Unused)
		}
		want, err := r.Passphrase(im.ID, key)
		must(t, err)
		h, err := r.Header(im.ID)
		must(t, err)
		if got, err := key.Passphrase(h.Format(), im.Kind, im.ID, h.UUID()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another passphrase than the store's", im.ID)
		}
	}
	must(t, os.Truncate(images[0].Path, 100))
	finish(t, dir)
}

// Images of another kind are refused. EVE's own are passed over, also a guest's disk that is
// a LUKS image, and a container that holds one.
func TestOtherImages(t *testing.T) {
	dir := t.TempDir()
	vaulttest.New(t, dir, 2)
	volumes := filepath.Join(dir, "vault", "volumes")
	other := filepath.Join(volumes, "a#1")
	write(t, other, luksMagic+"\x00\x02")
	if images, err := vaulttest.Contents(dir).Images(); !errors.Is(err, vault.ErrOtherImages) || len(images) != 2 {
		t.Errorf("an image of another kind: %d images, %v", len(images), err)
	}
	must(t, os.Rename(other, filepath.Join(volumes, "2cf8f72c-6200-4c94-a8f9-3625fbce7b94#0.raw")))
	write(t, filepath.Join(volumes, "2cf8f72c-6200-4c94-a8f9-3625fbce7b94#1.container", "rootfs", "disk"), luksMagic+"\x00\x02")
	if images, err := vaulttest.Contents(dir).Images(); err != nil || len(images) != 2 {
		t.Errorf("beside EVE's files: %d images, %v", len(images), err)
	}
}

// The opening of a tier finishes a rotation that was cut short, and gives the new key.
func TestUnlockFinishesARotation(t *testing.T) {
	dir := t.TempDir()
	vaulttest.New(t, dir, 2)
	old, _ := vaulttest.Open(t, dir)
	b := &vaulttest.Breaking{Left: 12, Stop: func() error { return errors.New("cut short") }}
	if err := vaulttest.Rotate(t.Context(), dir, b); err == nil {
		t.Fatal("it was not cut short")
	}
	cfg := vaulttest.Config(dir)
	cfg.Person = handover.New(filepath.Join(dir, "vault"), quiet)
	defer cfg.Person.Close()
	source, err := vault.New(cfg).Unlock(t.Context(), persist.Vault)
	must(t, err)
	defer source.Close()
	key, ring := vaulttest.Open(t, dir)
	if ring.Rotating() {
		t.Fatal("not finished")
	}
	vaulttest.CheckImages(t, "after the start", dir, key, old, 2)
}

// Images of format 1 are upgraded one by one, and rotated, mixed with those that are not
// yet; whatever stops it, the next run goes on.
func TestRotateBothFormats(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 2)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddVolumes(t, dir, key)
	images, err := vaulttest.Contents(dir).Images()
	if err != nil || len(images) != 5 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	for _, im := range images {
		for left := 0; ; left++ {
			b := &vaulttest.Breaking{Left: left, Stop: func() error { return errors.New("cut short") }}
			err := upgradeImage(t, im, key, b)
			if openErr := im.Opens(t.Context(), key); openErr != nil {
				t.Fatalf("%s: cut short after %d: %v", im.Title(), left, openErr)
			}
			if err == nil {
				break
			}
		}
		if h := vaulttest.Header(t, im.Path); h.Format() != luks2.Format2 {
			t.Errorf("%s: format %d", im.Title(), h.Format())
		}
		if im.ID == "layer1" {
			break // the rest stays as it is
		}
	}
	old, _ := vaulttest.Open(t, dir)
	must(t, vaulttest.Rotate(t.Context(), dir, &vaulttest.Breaking{Left: 1 << 30}))
	next, _ := vaulttest.Open(t, dir)
	vaulttest.CheckImages(t, "rotated", dir, next, old, len(images))
}

// upgradeImage makes an image one of format 2, with b between it and the disk.
func upgradeImage(t *testing.T, im *vault.Image, key *keys.TierKey, b *vaulttest.Breaking) error {
	t.Helper()
	f, err := os.OpenFile(im.Path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	h, err := luks2.Read(f)
	must(t, err)
	from, err := key.Passphrase(luks2.Format1, im.Kind, im.ID, h.UUID())
	must(t, err)
	to, err := key.Passphrase(luks2.Format2, im.Kind, im.ID, h.UUID())
	must(t, err)
	return luks2.Upgrade(t.Context(), b.File(f), luks2.Owner{Kind: im.Kind, ID: im.ID}, from, to, luks2.RandomKeyKDF())
}

// A disk whose first header is damaged opens by its second: a rotation takes it along.
func TestRotateDamagedDisk(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 0)
	old, _ := vaulttest.Open(t, dir)
	vaulttest.AddVolumes(t, dir, old)
	image := filepath.Join(persist.Layout{Root: dir}.Disks(persist.Vault), "secrets.img")
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 4096), 0)
	must(t, errors.Join(err, f.Close()))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(image), "other.img"), make([]byte, 4096), 0o600)) // no image
	finish(t, dir)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.CheckImages(t, "rotated", dir, key, old, 3)
}
