package vault

import (
	"context"
	"errors"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/keys/unlock"
	"layervault/persist"
)

// VolumeImage is the image of a volume at a path.
func VolumeImage(id, path string) *Image { return &Image{Kind: crypt.KindVolume, ID: id, Path: path} }

// AreaImage is the image of an area.
func (v *Vault) AreaImage(a persist.Area) *Image {
	return &Image{Kind: crypt.KindArea, ID: string(a), Path: v.cfg.Layout.AreaImage(a)}
}

// Adopt authenticates the header of an image as it is now, after a change by hand, when agree
// takes the changes without an error. It returns the changes; with none the image is left
// alone. The tier's floor does not count: to bring an image up to it is what this is for.
func (v *Vault) Adopt(ctx context.Context, im *Image, tier persist.Tier, agree func([]luks2.Change) error) (changes []luks2.Change, err error) {
	key, _, _, err := unlock.Open(ctx, v.cfg.Keys(tier))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	d := &crypt.Image{
		Path: im.Path, Owner: im.owner(), Label: im.ID,
		Key: func(_ context.Context, format int, uuid string) ([]byte, error) {
			return key.Passphrase(format, im.Kind, im.ID, uuid)
		},
	}
	if changes, err = d.Changes(ctx); err != nil || len(changes) == 0 {
		return changes, err
	}
	if err := agree(changes); err != nil {
		return changes, err
	}
	return changes, d.Adopt(ctx)
}
