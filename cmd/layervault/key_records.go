package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"layervault/driver"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// record is a file that the tier key authenticates, for a rotation of that key: as an image
// is, it is of the old key or of the new one at all times.
type record struct {
	title string
	check func(key *keys.TierKey) error
	rekey func(old, next *keys.TierKey) error
}

// Title implements keys.Image.
func (r *record) Title() string { return r.title }

// Opens implements keys.Image.
func (r *record) Opens(_ context.Context, key *keys.TierKey) error { return r.check(key) }

// Exchange implements keys.Image.
func (r *record) Exchange(_ context.Context, old, next *keys.TierKey) error {
	return r.rekey(old, next)
}

// tierRecords lists the records of a tier. They come after the images: what an image's
// record says of it is asked while it is exchanged.
func (a *app) tierRecords(ctx context.Context, t persist.Tier) ([]*record, error) {
	root := a.layout().Layers(t)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the layers: %w", err)
	}
	var records []*record
	for _, e := range entries {
		id := e.Name()
		if strings.HasPrefix(id, ".") || layer.ValidateID(id) != nil {
			continue
		}
		records = append(records, &record{
			title: "record of layer " + id,
			check: func(key *keys.TierKey) error { return layer.CheckRecord(root, id, key) },
			rekey: func(old, next *keys.TierKey) error { return layer.RekeyRecord(root, id, old, next) },
		})
	}
	volumes, err := volume.KeyedRecords(ctx, a.layout(), t)
	if err != nil {
		return nil, err
	}
	for _, k := range volumes {
		records = append(records, &record{
			title: k.Title,
			check: func(key *keys.TierKey) error { return k.Check(key) },
			rekey: func(old, next *keys.TierKey) error { return k.Rekey(old, next) },
		})
	}
	if t == persist.Vault {
		records = append(records, &record{
			title: "record of the driver's start",
			check: func(*keys.TierKey) error { return nil }, // dockerd says it anew
			rekey: func(old, next *keys.TierKey) error { return driver.RekeyRecord(a.layout(), old, next) },
		})
	}
	return records, nil
}

// toRotate is everything of a tier that follows its key.
func (a *app) toRotate(ctx context.Context, t persist.Tier) (all []keys.Image, records int, err error) {
	images, err := a.tierImages(t)
	if err != nil {
		return nil, 0, err
	}
	found, err := a.tierRecords(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	all = asKeyImages(images)
	for _, r := range found {
		all = append(all, r)
	}
	return all, len(found), nil
}
