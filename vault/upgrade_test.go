package vault_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"layervault/crypt"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
	"layervault/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// open is a frozen vault with everything open that an upgrade needs.
type open struct {
	vault.Upgrade
	source *unlock.Source
	close  func()
}

// frozen unpacks a vault of format 1.
func frozen(t *testing.T) persist.Layout {
	t.Helper()
	// In memory where that can be: there is no power to cut here.
	dir, err := os.MkdirTemp("/dev/shm", "layervault")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, vaulttest.Unpack(dir))
	return persist.Layout{Root: dir}
}

// contents is everything of a tier of a frozen vault.
func contents(l persist.Layout, tier persist.Tier) vault.Contents {
	return vault.Contents{Layout: l, Tier: tier}
}

func openTier(t *testing.T, l persist.Layout, tier persist.Tier) *open {
	t.Helper()
	ctx := context.Background()
	cfg := unlock.Config{Tier: l.Tier(tier), Provider: "versatile", Unmeasured: tier != persist.Vault, Set: keys.Values{"tpm": "/nonexistent"}}
	key, _, _, err := unlock.Open(ctx, cfg)
	must(t, err)
	source := unlock.NewSource(cfg, key)
	var layers *layer.Store
	if tier == persist.Vault {
		layers, err = layer.Open(ctx, layer.Config{Root: l.Layers(tier), Keys: source, Devices: layer.NewDevices(source, crypt.Params{}, crypt.VerityPrefer, quiet), Log: quiet})
		must(t, err)
	}
	work := t.TempDir()
	volumes, err := volume.Open(ctx, volume.Config{
		Layout: l, Mounts: filepath.Join(work, "mounts"), Scratch: filepath.Join(work, "scratch"), Log: quiet,
		Keys: func(context.Context, persist.Tier) (crypt.KeySource, error) { return source, nil },
	})
	must(t, err)
	o := &open{vault.Upgrade{Contents: contents(l, tier), Keys: source, Layers: layers, Volumes: volumes, Log: quiet}, source, nil}
	o.close = func() {
		if layers != nil {
			must(t, layers.Close(ctx))
		}
		must(t, errors.Join(volumes.Close(), source.Close()))
	}
	return o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sound wants every image to open and every record to be what its key wrote, or of format 1.
func (o *open) sound(t *testing.T, when string) vault.Formats {
	t.Helper()
	f, err := vault.Survey(context.Background(), o.Contents, o.source)
	must(t, err)
	if len(f.Problems) > 0 {
		t.Fatalf("%s: %v", when, f.Problems)
	}
	return f
}

func ring(t *testing.T, l persist.Layout, tier persist.Tier) *keys.Ring {
	t.Helper()
	r, err := keys.Load(t.Context(), l.KeyRing(tier), nil)
	must(t, err)
	return r
}

// What the last version that wrote format 1 left is upgraded, each tier for itself, and is
// not touched again.
func TestUpgradeFrozen(t *testing.T) {
	l := frozen(t)
	for tier, want := range map[persist.Tier]vault.Formats{
		persist.Vault:    {Images: vaulttest.VaultImages, Records: vaulttest.VaultRecords - 1}, // what dockerd said is not among the contents here
		persist.Unsealed: {Images: vaulttest.UnsealedImages, Records: vaulttest.UnsealedRecords},
	} {
		o := openTier(t, l, tier)
		if r := ring(t, l, tier); r.Version() != 1 || r.Floor() != 1 {
			t.Fatalf("%s: ring of version %d, floor %d", tier, r.Version(), r.Floor())
		}
		out, err := o.Run(t.Context())
		must(t, err)
		if b := out.Before; b.Images != want.Images || len(b.OldImages) != want.Images || b.Records != want.Records || len(b.OldRecords) != want.Records || out.Floor != 2 || !out.Raised {
			t.Errorf("%s: %+v", tier, out)
		}
		if f := o.sound(t, string(tier)); f.Old() != 0 || f.Images != want.Images || f.Records != want.Records {
			t.Errorf("%s: afterwards %+v", tier, f)
		}
		if r := ring(t, l, tier); r.Version() != 2 || r.Floor() != 2 {
			t.Errorf("%s: ring of version %d, floor %d", tier, r.Version(), r.Floor())
		}
		before := ring(t, l, tier)
		out, err = o.Run(t.Context())
		must(t, err)
		if out.Raised || out.Floor != 2 || len(out.Refused) != 0 {
			t.Errorf("%s: once more: %+v", tier, out)
		}
		if after := ring(t, l, tier); after.Path() != before.Path() || after.Floor() != 2 {
			t.Errorf("%s: the ring was changed", tier)
		}
		o.close()
	}
}

// An upgrade that ends at any step, or after any layer, volume or disk, leaves a vault that
// opens, and the next one finishes it.
func TestUpgradeCut(t *testing.T) {
	errCut := errors.New("the power went")
	for cut, whole := 0, false; !whole; cut++ {
		l := frozen(t)
		o := openTier(t, l, persist.Vault)
		ctx, end := context.WithCancelCause(t.Context())
		at, n := "", 0
		event := func(name string) error {
			if n++; n == cut+1 {
				at = name
				end(errCut)
				return errCut
			}
			return nil
		}
		o.Checkpoint = func(step string) error { return event("before " + step) }
		o.Progress = func(part string, _, _ int, name string) { _ = event("after " + name + " of " + part) }
		_, err := o.Run(ctx)
		whole = at == ""
		if whole {
			must(t, err)
			if cut < 15 {
				t.Errorf("only %d places to cut at", cut)
			}
		} else if !errors.Is(err, errCut) {
			t.Fatalf("%s: %v", at, err)
		}
		end(nil)
		floor := 1
		if whole {
			floor = 2
		}
		if r := ring(t, l, persist.Vault); r.Floor() != floor {
			t.Errorf("%s: floor %d", at, r.Floor())
		}
		o.sound(t, at)
		o.close()

		o = openTier(t, l, persist.Vault) // as after a power cut: nothing is remembered
		out, err := o.Run(t.Context())
		must(t, err)
		if f := o.sound(t, at); f.Old() != 0 || out.Floor != 2 {
			t.Errorf("%s: afterwards %+v, floor %d", at, f, out.Floor)
		}
		if _, err := o.Layers.Chain("c"); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		o.close()
	}
}

// What does not open is named, does not keep the rest, and keeps the floor, however often it
// is tried; until it is gone, or by force.
func TestUpgradeResists(t *testing.T) {
	overwrite := func(t *testing.T, path string, with func(data []byte) []byte) {
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, with(data), 0o600))
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, l persist.Layout)
		want  string // named so
	}{
		"image of another layer": {func(t *testing.T, l persist.Layout) {
			data, err := os.ReadFile(filepath.Join(l.Layers(persist.Vault), "base", layer.ImageName))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(l.Layers(persist.Vault), "top", layer.ImageName), data, 0o600))
		}, "layer top"},
		"header overwritten": {func(t *testing.T, l persist.Layout) {
			overwrite(t, filepath.Join(l.Disks(persist.Vault), "own.img"), func(d []byte) []byte { clear(d[6 : 1<<20]); return d }) // the magic stays
		}, "disk own.img"},
		"volume without a header": {func(t *testing.T, l persist.Layout) {
			paths, err := filepath.Glob(filepath.Join(l.Volumes(persist.Vault), "*#*"))
			must(t, err)
			overwrite(t, paths[0], func(d []byte) []byte { clear(d[:1<<20]); return d })
		}, "volume "},
		"record that is none": {func(t *testing.T, l persist.Layout) {
			overwrite(t, filepath.Join(l.Layers(persist.Vault), "top", "layer.json"), func([]byte) []byte { return []byte("{") })
		}, "layer top"},
		"record of format 2 that nobody signed": {func(t *testing.T, l persist.Layout) {
			overwrite(t, filepath.Join(l.Layers(persist.Vault), "base", "layer.json"), func(d []byte) []byte {
				text := strings.Replace(string(d), `"version": 1`, `"version": 2, "mac": "`+strings.Repeat("00", 32)+`"`, 1)
				if text == string(d) {
					t.Fatal("not forged")
				}
				return []byte(text)
			})
		}, "layer base"},
		"volume's record that is none": {func(t *testing.T, l persist.Layout) {
			paths, err := filepath.Glob(filepath.Join(l.Volumes(persist.Clear), "*", "volume.json"))
			must(t, err)
			overwrite(t, paths[0], func([]byte) []byte { return []byte("{") })
		}, "record of volume 8a85392f-6778-42c1-a30c-c13cebbf693e#0"},
	} {
		t.Run(name, func(t *testing.T) {
			l := frozen(t)
			c.spoil(t, l)
			o := openTier(t, l, persist.Vault)
			defer func() { o.close() }()
			for range 2 {
				_, err := o.Run(t.Context())
				var unfinished *vault.UnfinishedError
				if !errors.As(err, &unfinished) || !errors.Is(err, vault.ErrUnfinished) || !strings.Contains(fmt.Sprint(unfinished.Problems), c.want) {
					t.Fatalf("%v", err)
				}
				if floor := ring(t, l, persist.Vault).Floor(); floor != 1 {
					t.Fatalf("floor %d", floor)
				}
			}
			f, err := vault.Survey(t.Context(), o.Contents, nil)
			must(t, err)
			if len(f.OldImages) > 1 || len(f.OldRecords) > 3 { // the layers above a spoilt one wait for it
				t.Errorf("the rest was not upgraded: %v, %v", f.OldImages, f.OldRecords)
			}
			o.Force = true
			out, err := o.Run(t.Context())
			must(t, err)
			if out.Floor != 2 || !strings.Contains(strings.Join(out.Refused, "\n"), c.want) {
				t.Errorf("by force: floor %d, refused %q", out.Floor, out.Refused)
			}
		})
	}
}

// A layer that is removed, and one that is made, meanwhile.
func TestUpgradeBeside(t *testing.T) {
	l := frozen(t)
	o := openTier(t, l, persist.Vault)
	defer o.close()
	o.Progress = func(part string, done, _ int, _ string) {
		if part != "layers" || done != 1 {
			return
		}
		must(t, o.Layers.Remove(t.Context(), "fresh"))
		must(t, o.Layers.Create(t.Context(), "new", "top", layer.CreateOptions{}))
	}
	out, err := o.Run(t.Context())
	must(t, err)
	if f := o.sound(t, "afterwards"); f.Old() != 0 || out.Floor != 2 {
		t.Errorf("%+v, floor %d", f, out.Floor)
	}
	for id, want := range map[string]bool{"fresh": false, "new": true, "top": true} {
		if o.Layers.Exists(id) != want {
			t.Errorf("layer %s: %t", id, !want)
		}
	}
}
