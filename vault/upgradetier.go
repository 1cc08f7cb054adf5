package vault

import (
	"context"
	"errors"
	"fmt"

	"layervault/crypt"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/persist"
)

// Look is what an upgrade of a tier would find. It takes no lock and writes nothing: a plugin
// may run. Error: keys.ErrLocked, with what the disk alone says.
func (v *Vault) Look(ctx context.Context, tier persist.Tier, floor int) (out Upgraded, err error) {
	out.Floor = floor
	if out.Before, err = Survey(ctx, v.Contents(tier), nil); err != nil {
		return out, err
	}
	if out.Before.Old() > 0 && floor >= format {
		out.Refused = append(append(out.Refused, out.Before.OldImages...), out.Before.OldRecords...)
		return out, nil
	}
	cfg := v.cfg.Keys(tier)
	cfg.Looking = true
	if v.cfg.Recovery != nil {
		if cfg.Recovery, err = v.cfg.Recovery(); err != nil {
			return out, err
		}
		defer clear(cfg.Recovery)
	}
	key, _, _, err := unlock.Open(ctx, cfg)
	if err != nil {
		return out, fmt.Errorf("check that everything opens: unlock %s: %w", tier, err)
	}
	source := unlock.NewSource(cfg, key)
	defer func() { err = errors.Join(err, source.Close()) }()
	out.Before, err = Survey(ctx, v.Contents(tier), source)
	return out, err
}

// UpgradeTier upgrades a tier that no other process uses. Errors: layer.ErrBusy, and those of
// Upgrade.Run.
func (v *Vault) UpgradeTier(ctx context.Context, tier persist.Tier, force bool, progress func(part string, done, total int, name string)) (out Upgraded, err error) {
	out.Before = none()
	// First: it finishes a rotation that was cut short, for which it takes the locks itself.
	opened, err := v.Unlock(ctx, tier)
	if err != nil {
		return out, fmt.Errorf("unlock %s: %w", tier, err)
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	layers, release, err := v.own(ctx, tier, opened.Source)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, release()) }()
	volumes, err := v.openVolumes(ctx, onlyTier(tier, opened.Source))
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, volumes.Close()) }()
	return Upgrade{
		Contents: v.Contents(tier), Keys: opened.Source, Layers: layers, Volumes: volumes, Force: force, Progress: progress, Log: v.log,
	}.Run(ctx)
}

// onlyTier is how a store of volumes reaches the key of the one tier that is open.
func onlyTier(open persist.Tier, source *unlock.Source) VolumeKeys {
	return func(_ context.Context, tier persist.Tier) (crypt.KeySource, error) {
		if tier != open {
			return nil, fmt.Errorf("%w: %s is not open here", keys.ErrLocked, tier)
		}
		return source, nil
	}
}
