package vault

import (
	"context"
	"errors"
	"fmt"

	"layervault/keys"
	"layervault/keys/unlock"
)

// ErrOpensNothing: the key of a backup opens none of the images.
var ErrOpensNothing = errors.New("the backup opens none of the images")

// Restored is the outcome of Restore.
type Restored struct {
	Ring *keys.Ring
	// Opens: a slot of the backup opened, so the images were tried. Otherwise Why says what
	// kept the slots from opening.
	Opens  bool
	Why    error
	Images int // that the key opens
}

// Restore puts a backup of the key ring in place. Where a slot of the backup opens, with what
// cfg has, the images are tried first. With force a backup may open nothing, and replace a
// sound ring. Errors: layer.ErrBusy, ErrOpensNothing, those of keys.ReadBackup and
// keys.Ring.Restore; keys.ErrForgedRing for a backup that was changed.
func (c Contents) Restore(ctx context.Context, cfg unlock.Config, data []byte, force bool) (out Restored, err error) {
	if out.Ring, err = keys.ReadBackup(data, cfg.RingPath(), cfg.Log); err != nil {
		return out, err
	}
	release, err := c.Lock()
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, release()) }()
	providers, err := cfg.Providers()
	if err != nil {
		return out, err
	}
	// After a change of hardware no slot opens without a person: that is no error.
	key, _, why := out.Ring.Unlock(ctx, providers...)
	if errors.Is(why, keys.ErrForgedRing) {
		return out, why
	}
	if out.Why = why; why == nil {
		defer func() { err = errors.Join(err, key.Close()) }()
		out.Opens = true
		if out.Images, err = c.try(ctx, key); err != nil && !force {
			return out, err
		}
	}
	cfg.Anchor(out.Ring)
	return out, out.Ring.Restore(ctx, key, force)
}

// try counts the images that the key opens. None of some is ErrOpensNothing.
func (c Contents) try(ctx context.Context, key *keys.TierKey) (opened int, err error) {
	images, err := c.Images()
	if err != nil && !errors.Is(err, ErrOtherImages) {
		return 0, err
	}
	for _, im := range images {
		if err = im.Opens(ctx, key); err == nil {
			opened++
		}
	}
	if opened == 0 && len(images) > 0 {
		return 0, fmt.Errorf("%w: it is from another vault, or from before a rotation: %w", ErrOpensNothing, err)
	}
	return opened, nil
}
