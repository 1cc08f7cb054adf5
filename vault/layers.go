package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"layervault/crypt"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
)

// ErrAmbiguous: more than one layer begins with the given letters.
var ErrAmbiguous = errors.New("more than one layer begins with it")

// LayerRow is one layer with its image. The JSON names are those of image list --json.
type LayerRow struct {
	Layer   string     `json:"layer"`
	Parent  string     `json:"parent,omitempty"`
	Name    string     `json:"name,omitempty"` // containerd's, of a snapshot
	State   string     `json:"state,omitempty"`
	Kind    layer.Kind `json:"kind"`
	Created time.Time  `json:"created"`
	UUID    string     `json:"uuid,omitempty"`   // LUKS2 UUID; "" for a fresh layer
	Format  int        `json:"format,omitempty"` // of the image: what its header claims
	Cipher  string     `json:"cipher,omitempty"` // in dm-crypt's notation
	Disk    int64      `json:"disk_bytes"`
	Content int64      `json:"content_bytes,omitempty"` // sealed layers only
	Path    string     `json:"path,omitempty"`
	Error   string     `json:"error,omitempty"` // why the image cannot be read
}

// ReadLayers reads every layer of the vault, without its key. Layers whose records cannot be
// read are named in the error, beside the rest.
func ReadLayers(ctx context.Context, l persist.Layout) (_ []LayerRow, err error) {
	r, err := layer.OpenReader(l.Layers(persist.Vault))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	records, err := r.List(ctx)
	rows := make([]LayerRow, 0, len(records))
	for _, rec := range records {
		row := LayerRow{Layer: rec.ID, Parent: rec.Parent, Name: rec.Name, State: string(rec.State), Kind: rec.Kind, Created: rec.Created, Content: rec.Size}
		if u, err := r.Usage(rec.ID); err == nil {
			row.Disk = u.Disk
		}
		switch h, err := r.Header(rec.ID); {
		case err == nil:
			row.UUID, row.Format, row.Cipher, row.Path = h.UUID(), h.Format(), h.Segment().Cipher, r.ImagePath(rec.ID)
		case rec.Kind == layer.Fresh && errors.Is(err, fs.ErrNotExist):
		default:
			row.Error = err.Error()
		}
		rows = append(rows, row)
	}
	return rows, err
}

// FindLayer finds the image of a layer of the vault by what a person typed: a layer's id, the
// beginning of one, or the path of its image. Errors: layer.ErrBadID, layer.ErrNotFound,
// ErrAmbiguous.
func FindLayer(ctx context.Context, l persist.Layout, name string) (*Image, error) {
	return findLayerOf(ctx, l, persist.Vault, name)
}

func findLayerOf(ctx context.Context, l persist.Layout, tier persist.Tier, name string) (_ *Image, err error) {
	r, err := layer.OpenReader(l.Layers(tier))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	id, err := findLayer(ctx, r, name)
	if err != nil {
		return nil, err
	}
	return &Image{Kind: crypt.KindLayer, ID: id, Path: r.ImagePath(id)}, nil
}

func findLayer(ctx context.Context, r *layer.Reader, name string) (string, error) {
	if filepath.Base(name) == layer.ImageName {
		name = filepath.Base(filepath.Dir(name))
	}
	if err := layer.ValidateID(name); err != nil {
		return "", err
	}
	if _, err := r.Get(name); !errors.Is(err, layer.ErrNotFound) {
		return name, err
	}
	records, err := r.List(ctx)
	found := ""
	for _, rec := range records {
		if !strings.HasPrefix(rec.ID, name) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("layer %q: %w: %s and %s", name, ErrAmbiguous, found, rec.ID)
		}
		found = rec.ID
	}
	if found == "" {
		return "", errors.Join(fmt.Errorf("%w: %s", layer.ErrNotFound, name), err)
	}
	return found, nil
}

// LayerPassphrase is the LUKS2 passphrase of a layer's image, for stock cryptsetup. The caller
// wipes it. Errors: those of FindLayer and unlock.Open.
func LayerPassphrase(ctx context.Context, l persist.Layout, cfg unlock.Config, name string) (_ []byte, err error) {
	r, err := layer.OpenReader(l.Layers(persist.Vault))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	id, err := findLayer(ctx, r, name)
	if err != nil {
		return nil, err
	}
	key, _, _, err := unlock.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	return r.Passphrase(id, key)
}
