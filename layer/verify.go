package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"layervault/crypt"
)

// Verify reads all of a sealed layer's image and compares it with what was imported, as
// crypt.Image.Verify does. progress, if not nil, gets bytes. The layer may be in use.
//
// Further errors: ErrDamaged for a record that the keys do not vouch for, ErrOtherImage for an image
// that is not the record's, ErrState for a layer that is not sealed and so has no content that is
// final, ErrNotFound for one that was removed meanwhile.
func (r *Reader) Verify(ctx context.Context, id string, keys crypt.KeySource, log *slog.Logger, progress func(done, total int64)) (crypt.Verification, error) {
	rec, err := r.Get(id)
	if err != nil {
		return crypt.Verification{}, err
	}
	if err := vouched(rec, keys); err != nil {
		return crypt.Verification{}, err
	}
	if rec.Kind != Sealed {
		return crypt.Verification{}, fmt.Errorf("layer %s is %s: %w: only sealed layers can be verified", id, rec.Kind, ErrState)
	}
	im := Image{Layer: id, Path: r.ImagePath(id), Kind: rec.Kind, UUID: rec.UUID}
	result, err := im.encrypted(keys, log).Verify(ctx, progress)
	if err == nil {
		return result, nil
	}
	// A removal takes the record's name away before it destroys the keys.
	if _, gone := r.store.root.Lstat(recordPath(id)); errors.Is(gone, fs.ErrNotExist) {
		return result, fmt.Errorf("%w: %s: removed meanwhile", ErrNotFound, id)
	}
	return result, fmt.Errorf("layer %s: %w", id, err)
}

// IDs is Store.IDs.
func (r *Reader) IDs() ([]string, error) {
	if r.store == nil {
		return nil, nil
	}
	return r.store.IDs()
}
