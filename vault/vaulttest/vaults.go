package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/volume"
	"layervault/volume/volumetest"
)

// Keys is how the vault tier below dir opens: by a key file.
func Keys(dir string) unlock.Config {
	return unlock.Config{Tier: filepath.Join(dir, "vault"), Provider: "versatile", Set: keys.Values{"tpm": "/nonexistent"}}
}

// Contents is everything of the vault tier below dir.
func Contents(dir string) vault.Contents {
	return vault.Contents{Layout: persist.Layout{Root: dir}, Tier: persist.Vault}
}

// Config is the vault below dir, whose tiers open by a key file.
func Config(dir string) vault.Config {
	l := persist.Layout{Root: dir}
	return vault.Config{Layout: l, Log: slog.New(slog.DiscardHandler), Keys: func(t persist.Tier) unlock.Config {
		cfg := Keys(dir)
		cfg.Tier, cfg.Unmeasured = l.Tier(t), t != persist.Vault
		return cfg
	}}
}

// Dir is a folder in memory where there is one: tests of kills sync hundreds of times, and a
// kill loses nothing that was written, whatever the medium.
func Dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "layervault")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// New makes a vault below dir with n layers, each a LUKS2 image in a plain file, of both
// formats in turn.
func New(t *testing.T, dir string, n int) {
	t.Helper()
	key, _, err := unlock.OpenOrCreate(t.Context(), Keys(dir))
	must(t, err)
	defer key.Close()
	for i := range n {
		AddLayer(t, dir, key, fmt.Sprintf("layer%d", i), layer.Sealed, luks2.Format1+i%2)
	}
}

// AddLayer adds a layer whose image is of a format.
func AddLayer(t *testing.T, dir string, key *keys.TierKey, id string, kind layer.Kind, format int) {
	t.Helper()
	at := filepath.Join(dir, "vault", "layers", id)
	must(t, os.MkdirAll(at, 0o700))
	image := uuid.NewString()
	sealed := ""
	if kind == layer.Sealed {
		sealed = `,"uuid":"` + image + `"`
	}
	record := fmt.Sprintf(`{"version":1,"id":%q,"kind":%q%s,"created":"2026-01-02T03:04:05Z"}`, id, kind, sealed)
	must(t, os.WriteFile(filepath.Join(at, "layer.json"), []byte(record), 0o600))
	formatImage(t, key, filepath.Join(at, layer.ImageName), image, luks2.Owner{Kind: crypt.KindLayer, ID: id}, format)
}

func formatImage(t *testing.T, key *keys.TierKey, path, image string, owner luks2.Owner, format int) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	pass, err := key.Passphrase(format, owner.Kind, owner.ID, image)
	must(t, err)
	params := luks2.Params{UUID: image, KeySize: 32}
	if format == luks2.Format2 {
		params.Owner = &owner
	}
	_, volumeKey, err := luks2.Format(f, params, luks2.RandomKeyKDF(), pass)
	must(t, err)
	clear(volumeKey)
}

// Open opens the vault tier below dir. The key is closed at the end of the test.
func Open(t *testing.T, dir string) (*keys.TierKey, *keys.Ring) {
	t.Helper()
	key, ring, _, err := unlock.Open(t.Context(), Keys(dir))
	must(t, err)
	t.Cleanup(func() { _ = key.Close() })
	return key, ring
}

// VolumeStore opens the store of volumes below dir, whose images are plain files with LUKS2
// headers that want key.
func VolumeStore(t *testing.T, dir string, key *keys.TierKey) *volume.Store {
	t.Helper()
	open := func(context.Context, persist.Tier) (crypt.KeySource, error) { return newRing{key}, nil }
	s, err := volume.Open(t.Context(), volume.Config{
		Layout: persist.Layout{Root: dir}, Mounts: dir + "/m", Scratch: dir + "/s", Keys: open, Devices: volumetest.Devices(open),
	})
	must(t, err)
	return s
}

// newRing is the key of a ring that accepts the newest format only.
type newRing struct{ *keys.TierKey }

func (newRing) Floor() int { return 2 }

// AddVolumes makes volumes one, two and zclear, a revision, and the image of a disk.
func AddVolumes(t *testing.T, dir string, key *keys.TierKey) {
	t.Helper()
	s := VolumeStore(t, dir, key)
	defer s.Close()
	must(t, s.SetRevision(t.Context(), "r1"))
	for name, opts := range map[string]map[string]string{"one": {"size": "16M"}, "two": {"size": "16M"}, "zclear": {"clear": "true"}} {
		r, err := volume.ParseOptions(opts)
		must(t, err)
		_, err = s.Create(t.Context(), name, r)
		must(t, err)
	}
	at := persist.Layout{Root: dir}.Disks(persist.Vault)
	must(t, os.MkdirAll(at, 0o700))
	formatImage(t, key, filepath.Join(at, "secrets.img"), uuid.NewString(), luks2.Owner{Kind: crypt.KindDisk, ID: "secrets.img"}, luks2.Format2)
}

// CheckImages wants every image to open with key, and none with old.
func CheckImages(t *testing.T, when, dir string, key, old *keys.TierKey, want int) {
	t.Helper()
	images, err := Contents(dir).Images()
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
		h := Header(t, im.Path)
		if len(h.Slots()) != 1 || h.NeedsRepair() {
			t.Fatalf("%s: %s: %d slots, repair %v", when, im.Title(), len(h.Slots()), h.NeedsRepair())
		}
	}
}

// Header reads the header of an image.
func Header(t *testing.T, path string) *luks2.Header {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h, err := luks2.Read(f)
	must(t, err)
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Breaking counts everything that reaches the disk, and breaks off at one of them. A write
// that it breaks off is done by half.
type Breaking struct {
	Left  int
	Stop  func() error // nil: only count
	Count int
}

// Step counts one step.
func (b *Breaking) Step(string) error {
	b.Count++
	if b.Left--; b.Left < 0 && b.Stop != nil {
		return b.Stop()
	}
	return nil
}

// File puts b between an image and what writes to it.
func (b *Breaking) File(f luks2.File) luks2.File { return breakingFile{f, b} }

type breakingFile struct {
	luks2.File
	b *Breaking
}

func (f breakingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.b.Step("write"); err != nil {
		return 0, err
	}
	if f.b.Left == 0 && f.b.Stop != nil { // the next step stops: leave half a write
		n, err := f.File.WriteAt(p[:len(p)/2], off)
		return n, errors.Join(err, f.b.Stop())
	}
	return f.File.WriteAt(p, off)
}

func (f breakingFile) Sync() error {
	if err := f.b.Step("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

// Rotate rotates the key of the vault tier below dir, with b between it and the disk; nil for
// nothing.
func Rotate(ctx context.Context, dir string, b *Breaking) error {
	cfg, c := Keys(dir), Contents(dir)
	r := vault.Rotation{
		Open: func(ctx context.Context) (*keys.TierKey, *keys.Ring, error) {
			key, ring, _, err := unlock.Open(ctx, cfg)
			return key, ring, err
		},
		Again: func(slot keys.Slot) (keys.Provider, error) { return cfg.Again(ctx, slot) },
	}
	if b != nil {
		c.Wrap, r.Checkpoint = b.File, b.Step
	}
	_, _, err := c.Rotate(ctx, r)
	return err
}
