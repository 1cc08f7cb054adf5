package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/internal/authentic"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// Contents says where everything of one tier is on the disk. It needs no key.
type Contents struct {
	Layout persist.Layout
	Tier   persist.Tier
	// Records are the tier's records that belong to neither a layer nor a volume.
	Records []Record
	// Wrap, when set, comes between the file of an image and what writes to it: tests break
	// off there.
	Wrap func(luks2.File) luks2.File
}

// Record is a record that belongs to neither a layer nor a volume.
type Record struct {
	Title string
	// Version reads the record's version: 0 for a record that is absent, or cannot be read and
	// is written anew by its owner.
	Version func() int
	// Upgrade writes the record in the present version, authenticated by the tier. It is one
	// rename.
	Upgrade func(tier crypt.KeySource) error
	// Rekey makes a record that the key old authenticates one of next. It can be repeated.
	Rekey func(old, next authentic.Keys) error
}

// rekeyed is a record for a rotation of the tier key: as an image does, it belongs to the old
// key or to the new one at all times.
type rekeyed struct {
	title string
	check func(key *keys.TierKey) error
	rekey func(old, next *keys.TierKey) error
}

// Title implements keys.Image.
func (r *rekeyed) Title() string { return r.title }

// Opens implements keys.Image.
func (r *rekeyed) Opens(_ context.Context, key *keys.TierKey) error { return r.check(key) }

// Exchange implements keys.Image.
func (r *rekeyed) Exchange(_ context.Context, old, next *keys.TierKey) error {
	return r.rekey(old, next)
}

// KeyedRecords lists the files that the tier's key authenticates, and that are no images. In
// a rotation they come after the images: what the record of an image says is asked while the
// image is exchanged.
func (c Contents) KeyedRecords(ctx context.Context) ([]keys.Image, error) {
	root := c.Layout.Layers(c.Tier)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the layers: %w", err)
	}
	var records []keys.Image
	for _, e := range entries {
		id := e.Name()
		if strings.HasPrefix(id, ".") || layer.ValidateID(id) != nil {
			continue
		}
		records = append(records, &rekeyed{
			title: "record of layer " + id,
			check: func(key *keys.TierKey) error { return layer.CheckRecord(root, id, key) },
			rekey: func(old, next *keys.TierKey) error { return layer.RekeyRecord(root, id, old, next) },
		})
	}
	volumes, err := volume.KeyedRecords(ctx, c.Layout, c.Tier)
	if err != nil {
		return nil, err
	}
	for _, k := range volumes {
		records = append(records, &rekeyed{
			title: k.Title,
			check: func(key *keys.TierKey) error { return k.Check(key) },
			rekey: func(old, next *keys.TierKey) error { return k.Rekey(old, next) },
		})
	}
	for _, r := range c.Records {
		// Not checked: its owner writes it anew.
		records = append(records, &rekeyed{
			title: r.Title,
			check: func(*keys.TierKey) error { return nil },
			rekey: func(old, next *keys.TierKey) error { return r.Rekey(old, next) },
		})
	}
	return records, nil
}
