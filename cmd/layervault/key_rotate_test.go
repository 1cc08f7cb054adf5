package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
)

// quietApp is the program below a folder, with nothing of it on the screen.
func quietApp(dir string) *app {
	return &app{streams: streams{strings.NewReader(""), io.Discard, io.Discard}, env: versatileChosen, persist: dir}
}

func vaultConfig(dir string) unlock.Config {
	return unlock.Config{Tier: filepath.Join(dir, "vault"), Provider: "versatile", Set: keys.Values{"tpm": "/nonexistent"}}
}

// memoryDir is a folder in memory where there is one: these tests sync hundreds of
// times, and a kill loses nothing that was written, whatever the medium.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "layervault")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newVault makes a vault below dir with n layers, each a LUKS2 image in a plain file.
func newVault(t *testing.T, dir string, n int) {
	t.Helper()
	key, _, err := unlock.OpenOrCreate(t.Context(), vaultConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	for i := range n {
		addLayerOf(t, dir, key, fmt.Sprintf("layer%d", i), layer.Sealed, luks2.Format1+i%2)
	}
}

func addLayer(t *testing.T, dir string, key *keys.TierKey, id string, kind layer.Kind) {
	t.Helper()
	addLayerOf(t, dir, key, id, kind, luks2.Format2)
}

// addLayerOf adds a layer whose image is of a format.
func addLayerOf(t *testing.T, dir string, key *keys.TierKey, id string, kind layer.Kind, format int) {
	t.Helper()
	at := filepath.Join(dir, "vault", "layers", id)
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	image := uuid.NewString()
	sealed := ""
	if kind == layer.Sealed {
		sealed = `,"uuid":"` + image + `"`
	}
	record := fmt.Sprintf(`{"version":1,"id":%q,"kind":%q%s,"created":"2026-01-02T03:04:05Z"}`, id, kind, sealed)
	if err := os.WriteFile(filepath.Join(at, "layer.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(at, layer.ImageName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pass, err := key.Passphrase(format, layerKind, id, image)
	if err != nil {
		t.Fatal(err)
	}
	params := luks2.Params{UUID: image, KeySize: 32}
	if format == luks2.Format2 {
		params.Owner = &luks2.Owner{Kind: layerKind, ID: id}
	}
	_, volumeKey, err := luks2.Format(f, params, luks2.RandomKeyKDF(), pass)
	if err != nil {
		t.Fatal(err)
	}
	clear(volumeKey)
}

func openKey(t *testing.T, dir string) (*keys.TierKey, *keys.Ring) {
	t.Helper()
	key, ring, _, err := unlock.Open(t.Context(), vaultConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	return key, ring
}

// images wants every image to open with key, and none with old.
func checkImages(t *testing.T, when, dir string, key, old *keys.TierKey, want int) {
	t.Helper()
	images, err := quietApp(dir).tierImages(persist.Vault)
	if err != nil || len(images) != want {
		t.Fatalf("%s: %d images, %v", when, len(images), err)
	}
	for _, im := range images {
		if err := im.Opens(t.Context(), key); err != nil {
			t.Fatalf("%s: %s: %v", when, im.Title(), err)
		}
		if err := im.Opens(t.Context(), old); !errors.Is(err, luks2.ErrNoKey) {
			t.Fatalf("%s: %s with the old key: %v", when, im.Title(), err)
		}
		f, err := os.Open(im.path)
		if err != nil {
			t.Fatal(err)
		}
		h, err := luks2.Read(f)
		if err != nil || len(h.Slots()) != 1 || h.NeedsRepair() {
			t.Fatalf("%s: %s: %v, %d slots, repair %v", when, im.Title(), err, len(h.Slots()), h.NeedsRepair())
		}
		_ = f.Close()
	}
}

// breaking counts everything that reaches the disk, and breaks off at one of them. A
// write that it breaks off is done by half.
type breaking struct {
	left  int
	stop  func() error // nil: only count
	count int
}

func (b *breaking) step(string) error {
	b.count++
	if b.left--; b.left < 0 && b.stop != nil {
		return b.stop()
	}
	return nil
}

type breakingFile struct {
	luks2.File
	b *breaking
}

func (f breakingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.b.step("write"); err != nil {
		return 0, err
	}
	if f.b.left == 0 && f.b.stop != nil { // the next step stops: leave half a write
		n, err := f.File.WriteAt(p[:len(p)/2], off)
		return n, errors.Join(err, f.b.stop())
	}
	return f.File.WriteAt(p, off)
}

func (f breakingFile) Sync() error {
	if err := f.b.step("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

// rotateBreaking rotates as the verb does, with b between it and the disk.
func rotateBreaking(ctx context.Context, dir string, b *breaking) (err error) {
	a, cfg := quietApp(dir), vaultConfig(dir)
	release, err := a.lockTier(persist.Vault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	key, ring, _, err := unlock.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer key.Close()
	images, err := a.tierImages(persist.Vault)
	if err != nil {
		return err
	}
	for _, im := range images {
		im.wrap = func(f luks2.File) luks2.File { return breakingFile{f, b} }
	}
	plan := keys.Rotation{Images: asKeyImages(images), Checkpoint: b.step}
	if !ring.Rotating() {
		if _, err := a.carrySlots(ctx, cfg, ring, rotateFlags{}, &plan); err != nil {
			return err
		}
	}
	_, err = ring.Rotate(ctx, key, plan)
	return err
}

// finish rotates with the command itself.
func finish(t *testing.T, dir string) {
	t.Helper()
	var stderr bytes.Buffer
	s := streams{strings.NewReader(""), io.Discard, &stderr}
	if status := run(t.Context(), []string{"key", "rotate", "--persist", dir, "--tpm", "/nonexistent"}, s, versatileChosen); status != 0 {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
}

// A step that fails, at each in turn, leaves what the next try finishes.
func TestRotateFailsAtEachStep(t *testing.T) {
	errStop := errors.New("this step failed")
	dir := memoryDir(t)
	newVault(t, dir, 1)
	for at := 0; ; at++ {
		old, _ := openKey(t, dir)
		b := &breaking{left: at, stop: func() error { return errStop }}
		if err := rotateBreaking(t.Context(), dir, b); err == nil {
			if at < 15 {
				t.Fatalf("only %d steps", at)
			}
			return
		}
		finish(t, dir)
		key, ring := openKey(t, dir)
		if ring.Proves(old) == nil { // it failed before it began, and has now been done
			t.Fatalf("step %d: the old key stays", at)
		}
		checkImages(t, fmt.Sprintf("step %d", at), dir, key, old, 1)
	}
}

// The images of a rotation are derived as the layer store derives them.
func TestLayerImages(t *testing.T) {
	dir := t.TempDir()
	newVault(t, dir, 2)
	key, _ := openKey(t, dir)
	addLayer(t, dir, key, "imported", layer.Fresh)
	for _, junk := range []string{"layers/.tmp-x/image.luks", "layers/fresh/layer.json"} {
		path := filepath.Join(dir, "vault", junk)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := quietApp(dir).tierImages(persist.Vault)
	if err != nil || len(images) != 3 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	r, err := layer.OpenReader(filepath.Join(dir, "vault", "layers"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, im := range images {
		if im.leftover != (im.id == "imported") {
			t.Errorf("%s: leftover %v", im.id, im.leftover)
		}
		want, err := r.Passphrase(im.id, key)
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.Header(im.id)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.Passphrase(h.Format(), layerKind, im.id, h.UUID()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another passphrase than the store's", im.id)
		}
	}
	// A broken leftover is nobody's loss.
	if err := os.Truncate(images[0].path, 100); err != nil {
		t.Fatal(err)
	}
	finish(t, dir)
	other := filepath.Join(dir, "vault", "volumes", "a#1")
	if err := os.MkdirAll(filepath.Dir(other), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, append(bytes.Clone(luksMagic), 0, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := quietApp(dir).tierImages(persist.Vault); !errors.Is(err, errOtherImages) {
		t.Errorf("an image of another kind: %v", err)
	}
	// EVE's own are passed over, also a guest's disk that is a LUKS image, and a container
	// that holds one.
	eve := filepath.Join(dir, "vault", "volumes", "2cf8f72c-6200-4c94-a8f9-3625fbce7b94#0.raw")
	if err := os.Rename(other, eve); err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(dir, "vault", "volumes", "2cf8f72c-6200-4c94-a8f9-3625fbce7b94#1.container", "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "disk"), append(bytes.Clone(luksMagic), 0, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := quietApp(dir).tierImages(persist.Vault); err != nil || len(got) != len(images) {
		t.Errorf("beside EVE's files: %d images, %v", len(got), err)
	}
}

// The plugin's start finishes a rotation that was cut short, and serves the new key.
func TestOpenVaultFinishesARotation(t *testing.T) {
	errStop := errors.New("cut short")
	dir := t.TempDir()
	newVault(t, dir, 2)
	old, _ := openKey(t, dir)
	b := &breaking{left: 12, stop: func() error { return errStop }}
	if err := rotateBreaking(t.Context(), dir, b); err == nil {
		t.Fatal("it was not cut short")
	}
	a := quietApp(dir)
	person := handover.New(filepath.Join(dir, "vault"), a.ringLog())
	defer person.Close()
	source, err := a.openTier(t.Context(), persist.Vault, settings{key: "versatile"}, person, a.ringLog())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	key, ring := openKey(t, dir)
	if ring.Rotating() {
		t.Fatal("not finished")
	}
	checkImages(t, "after the start", dir, key, old, 2)
}

// versatileChosen is the environment of a person whose vaults have slots of software alone.
func versatileChosen(name string) string {
	if name == "key" {
		return "versatile"
	}
	return ""
}
