package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/user"

	"layervault/crypt/luks2"
	"layervault/layer"
	"layervault/layer/layertest"
)

// The attacker of these tests writes to the switched-off disk and has no key. Each attack is
// tried twice: as it can be made, and, as the control, with the check taken out, which is to
// say by somebody who can authenticate what was changed (or, for an image, with a record
// that names none). The control shows that it is the check that stops the attack, and what
// it would come to.

// disk is a store that is switched off and on again.
type disk struct {
	*testing.T
	cfg   layer.Config
	store *layer.Store
}

func newDisk(t *testing.T) *disk {
	cfg := config(t)
	cfg.Devices = layertest.Devices
	d := &disk{T: t, cfg: cfg}
	d.on()
	d.seal("base", "", "base's")
	d.seal("middle", "base", "middle's")
	d.seal("other", "", "other's")
	must(t, d.store.Create(t.Context(), "secret", "base", layer.CreateOptions{ReadWrite: true, DefaultSize: 16 << 20}))
	must(t, d.store.Create(t.Context(), "container", "middle", layer.CreateOptions{ReadWrite: true, DefaultSize: 16 << 20}))
	return d
}

func (d *disk) on() {
	d.Helper()
	d.store = open(d.T, d.cfg)
}

func (d *disk) off() {
	d.Helper()
	must(d, d.store.Close(context.Background()))
}

// seal makes a sealed layer with one file.
func (d *disk) seal(id, parent, text string) {
	d.Helper()
	must(d, d.store.Create(d.Context(), id, parent, layer.CreateOptions{}))
	d.fill(id, text)
}

func (d *disk) path(id, name string) string { return filepath.Join(d.cfg.Root, id, name) }

// edit changes a record as a text editor does; with re, it is authenticated anew.
func (d *disk) edit(id string, re bool, change func(r *layer.Record)) {
	d.Helper()
	name := d.path(id, "layer.json")
	data, err := os.ReadFile(name)
	must(d, err)
	var r layer.Record
	must(d, json.Unmarshal(data, &r))
	change(&r)
	if re {
		if r, err = r.Seal(d.cfg.Keys); err != nil {
			d.Fatal(err)
		}
	}
	data, err = json.Marshal(r)
	must(d, err)
	must(d, os.WriteFile(name, data, 0o600))
}

// contents opens the chain of a layer and reads what each shows, the layer itself first.
func (d *disk) contents(id string) (texts []string, err error) {
	d.Helper()
	chain, err := d.store.Chain(id)
	if err != nil {
		return nil, err
	}
	var with []layer.Record
	for _, r := range chain {
		if r.Kind != layer.Fresh {
			with = append(with, r)
		}
	}
	v, err := d.store.Open(d.Context(), with)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.Close(context.Background())) }()
	for n := range with {
		data, err := os.ReadFile(filepath.Join(v.Content(n), "file"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		texts = append(texts, string(data))
	}
	return texts, nil
}

// tree lists every file below the store's root with its size.
func (d *disk) tree() (all []string) {
	d.Helper()
	must(d, filepath.WalkDir(d.cfg.Root, func(at string, e os.DirEntry, err error) error {
		all = append(all, at)
		return err
	}))
	return all
}

func TestEvilMaid(t *testing.T) {
	attacks := map[string]struct {
		at    string // the layer that is opened
		tamp  func(d *disk, re bool)
		want  error
		words string
		loot  string // what the control shows, of all that is opened
	}{
		"parent swapped": {
			at: "container", want: layer.ErrForged, words: "container", loot: "|other's",
			tamp: func(d *disk, re bool) {
				d.edit("container", re, func(r *layer.Record) { r.Parent, r.ParentUUID = "other", "" })
			},
		},
		"parent cut off": {
			at: "middle", want: layer.ErrForged, words: "middle", loot: "middle's",
			tamp: func(d *disk, re bool) {
				d.edit("middle", re, func(r *layer.Record) { r.Parent, r.ParentUUID = "", "" })
			},
		},
		"another container's layer as a lower": {
			at: "container", want: layer.ErrForged, words: "container", loot: "|the secret|base's",
			tamp: func(d *disk, re bool) {
				d.edit("container", re, func(r *layer.Record) { r.Parent, r.ParentUUID = "secret", "" })
			},
		},
		"writable to sealed": {
			at: "secret", want: layer.ErrForged, words: "secret", loot: "the secret|base's",
			tamp: func(d *disk, re bool) {
				d.edit("secret", re, func(r *layer.Record) { r.Kind, r.ReadWrite = layer.Sealed, false })
			},
		},
		"sealed to writable": {
			at: "middle", want: layer.ErrForged, words: "middle", loot: "middle's|base's",
			tamp: func(d *disk, re bool) {
				d.edit("middle", re, func(r *layer.Record) { r.Kind, r.Size = layer.Writable, 0 })
			},
		},
		"record of another layer": {
			at: "middle", want: layer.ErrDamaged, words: "belongs to", loot: "middle's",
			tamp: func(d *disk, re bool) {
				data, err := os.ReadFile(d.path("other", "layer.json"))
				must(d, err)
				must(d, os.WriteFile(d.path("middle", "layer.json"), data, 0o600))
				if re {
					d.edit("middle", re, func(r *layer.Record) {
						h, err := d.header("middle")
						must(d, err)
						r.ID, r.UUID = "middle", h
					})
				}
			},
		},
		"authentication taken away": {
			at: "middle", want: layer.ErrOldFormat, words: "unauthenticated record of format 1", loot: "middle's",
			tamp: func(d *disk, re bool) {
				d.edit("middle", re, func(r *layer.Record) { r.Version, r.Parent, r.ParentUUID, r.MAC = 1, "", "", "" })
			},
		},
	}
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			for _, control := range []bool{false, true} {
				d := newDisk(t)
				d.put("secret", "the secret")
				d.off()
				a.tamp(d, control)
				before := d.tree()
				d.on()
				got, err := d.contents(a.at)
				if control {
					if err != nil || strings.Join(got, "|") != a.loot {
						t.Errorf("the control shows %q (%v), want %q", got, err, a.loot)
					}
					continue
				}
				if !errors.Is(err, a.want) || !strings.Contains(err.Error(), a.words) {
					t.Errorf("opened: %q, error %v", got, err)
				}
				if after := d.tree(); len(after) != len(before) {
					t.Errorf("destroyed or made: %v, before %v", after, before)
				}
				// The rest of the vault opens as if nothing were.
				if got, err := d.contents("other"); err != nil || strings.Join(got, "|") != "other's" {
					t.Errorf("untouched: %q, %v", got, err)
				}
			}
		})
	}
}

// An older record, all of it authentic, of a layer that was filled since: the layer vanished
// from the chains that stand on it.
func TestEvilMaidOlderRecord(t *testing.T) {
	d := newDisk(t)
	must(t, d.store.Create(t.Context(), "young", "base", layer.CreateOptions{}))
	fresh, err := os.ReadFile(d.path("young", "layer.json"))
	must(t, err)
	d.fill("young", "young's")
	must(t, d.store.Create(t.Context(), "top", "young", layer.CreateOptions{ReadWrite: true, DefaultSize: 16 << 20}))
	d.off()
	must(t, os.WriteFile(d.path("young", "layer.json"), fresh, 0o600))
	d.on()
	if got, err := d.contents("top"); !errors.Is(err, layer.ErrForged) || !strings.Contains(err.Error(), "young") {
		t.Errorf("opened: %q, error %v", got, err)
	}
	if _, err := os.Stat(d.path("young", layer.ImageName)); err != nil {
		t.Error("its image was destroyed:", err)
	}
	// The control: a layer above that does not say on which image it was made.
	d.off()
	d.edit("top", true, func(r *layer.Record) { r.ParentUUID = "" })
	d.on()
	if got, err := d.contents("top"); err != nil || strings.Join(got, "|") != "|base's" {
		t.Errorf("the control shows %q (%v)", got, err)
	}
}

// An older image of the same layer, as a container's layer has one when it was made anew
// under its id, and another layer's image under this one's name.
func TestEvilMaidOlderImage(t *testing.T) {
	for _, id := range []string{"secret", "base"} {
		d := newDisk(t)
		d.off()
		older, err := os.ReadFile(d.path(id, layer.ImageName))
		must(t, err)
		d.on()
		if id == "secret" {
			must(t, d.store.Remove(t.Context(), id))
			must(t, d.store.Create(t.Context(), id, "base", layer.CreateOptions{ReadWrite: true, DefaultSize: 16 << 20}))
		} else {
			older, err = os.ReadFile(d.path("other", layer.ImageName))
			must(t, err)
		}
		d.off()
		must(t, os.WriteFile(d.path(id, layer.ImageName), older, 0o600))
		d.on()
		if got, err := d.contents(id); !errors.Is(err, layer.ErrOtherImage) || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: opened: %q, error %v", id, got, err)
		}
		// The control: a record that says nothing of its image, as version 1 of a writable one.
		if id != "secret" {
			continue
		}
		d.off()
		d.edit(id, false, func(r *layer.Record) { r.Version, r.UUID, r.ParentUUID, r.MAC = 1, "", "", "" })
		d.cfg.Keys = layertest.Keys{Old: true}
		d.on()
		if _, err := d.contents(id); err != nil {
			t.Errorf("%s: the control: %v", id, err)
		}
	}
}

// A layer that was refused can be removed, and only because somebody asked for it by its id.
func TestForgedCanBeRemoved(t *testing.T) {
	d := newDisk(t)
	d.off()
	d.edit("secret", false, func(r *layer.Record) { r.Parent, r.ParentUUID = "other", "" })
	d.on()
	if !d.store.Exists("secret") {
		t.Error("it does not exist, so docker would forget it")
	}
	// What it says of its parent counts for nothing.
	if children, err := d.store.Children(t.Context(), "other"); err != nil || len(children) > 0 {
		t.Errorf("children of other: %v, %v", children, err)
	}
	must(t, d.store.Remove(t.Context(), "secret"))
	if d.store.Exists("secret") {
		t.Error("it is still there")
	}
}

// Records of a vault that is another's are none of this one's.
func TestOtherVault(t *testing.T) {
	d := newDisk(t)
	d.off()
	d.cfg.Keys = layertest.Keys{Other: "another"}
	d.on()
	if _, err := d.contents("base"); !errors.Is(err, layer.ErrForged) {
		t.Errorf("error %v", err)
	}
	if all, err := d.store.List(t.Context()); len(all) > 0 || !errors.Is(err, layer.ErrForged) {
		t.Errorf("listed %v, %v", all, err)
	}
	d.off()
	if _, err := layer.Open(t.Context(), layer.Config{Root: d.cfg.Root, Scratch: d.cfg.Scratch, Devices: d.cfg.Devices}); err == nil {
		t.Error("opened without a key")
	}
}

func (d *disk) fill(id, text string) {
	d.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	must(d, w.WriteHeader(&tar.Header{Name: "file", Size: int64(len(text)), Mode: 0o600}))
	_, err := w.Write([]byte(text))
	must(d, errors.Join(err, w.Close()))
	_, err = d.store.Import(d.Context(), id, &buf, user.IdentityMapping{})
	must(d, err)
}

// put writes a file into a writable layer.
func (d *disk) put(id, text string) {
	d.Helper()
	r, err := d.store.Get(id)
	must(d, err)
	v, err := d.store.Open(d.Context(), []layer.Record{r})
	must(d, err)
	err = os.WriteFile(filepath.Join(v.Content(0), "file"), []byte(text), 0o600)
	must(d, errors.Join(err, v.Close(context.Background())))
}

// header reads the UUID of a layer's image.
func (d *disk) header(id string) (string, error) {
	f, err := os.Open(d.path(id, layer.ImageName))
	if err != nil {
		return "", err
	}
	defer f.Close()
	h, err := luks2.Read(f)
	if err != nil {
		return "", err
	}
	return h.UUID(), nil
}
