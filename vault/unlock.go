package vault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/volume"
)

// started is when this process was.
var started = time.Now()

// Unlock opens a tier for its caller alone, or makes its key ring when there is none, and
// finishes a rotation that was cut short. It keeps no rotation off. A locked vault opens with
// a key that a person handed over, for which Person then waits.
func (v *Vault) Unlock(ctx context.Context, tier persist.Tier) (*Tier, error) {
	cfg := v.cfg.Keys(tier)
	cfg.WaitUntil = started.Add(v.cfg.Patience)
	person := v.cfg.Person
	if tier != persist.Vault {
		person = nil
	}
	var err error
	if cfg.Floor, err = v.floorOfNew(ctx, tier); err != nil {
		return nil, err
	}
	key, ring, err := v.openOrCreate(ctx, cfg)
	if errors.Is(err, keys.ErrLocked) && person != nil {
		key, err = v.handedOver(ctx, ring, err)
	}
	if err != nil {
		return nil, err
	}
	if person != nil {
		if err := person.Cancel(); err != nil { // it opened by itself meanwhile
			return nil, errors.Join(err, key.Close())
		}
	}
	providers, err := cfg.Providers()
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	if ring.Rotating() {
		err := v.Contents(tier).finishRotation(ctx, ring, key, v.log)
		if errors.Is(err, unix.EROFS) {
			v.log.Warn("a rotation of the tier key was cut short and cannot be finished on a disk that is read-only: images that are not done yet do not open", "tier", cfg.Tier)
			err = nil
		}
		if err != nil {
			return nil, errors.Join(err, key.Close())
		}
	}
	return &Tier{Source: unlock.NewSource(cfg, key), slots: ring.Summary(providers...)}, nil
}

// openOrCreate is unlock.OpenOrCreate with what a person named.
func (v *Vault) openOrCreate(ctx context.Context, cfg unlock.Config) (*keys.TierKey, *keys.Ring, error) {
	if v.cfg.Recovery != nil {
		typed, err := v.cfg.Recovery()
		if err != nil {
			return nil, nil, err
		}
		defer clear(typed)
		cfg.Recovery = typed
	}
	return unlock.OpenOrCreate(ctx, cfg)
}

// floorOfNew is the floor of a tier's ring that is made now. What was written while there
// was no vault yet, such as the host's revision, is not authenticated: the upgrade at the
// next start authenticates it.
func (v *Vault) floorOfNew(ctx context.Context, tier persist.Tier) (int, error) {
	layout := v.cfg.Layout
	if _, err := os.Lstat(layout.KeyRing(tier)); tier != persist.Vault || !errors.Is(err, fs.ErrNotExist) {
		return keys.Format2, nil
	}
	version, err := volume.RevisionVersion(layout)
	if err != nil {
		return 0, err
	}
	if version == keys.Format1 {
		return keys.Format1, nil
	}
	all, err := volume.List(ctx, layout)
	if err != nil {
		return 0, err
	}
	for _, vol := range all {
		if vol.KeyTier() == tier && vol.Unauthenticated() {
			return keys.Format1, nil
		}
	}
	return keys.Format2, nil
}

// handedOver gives the key that a person handed over or offers, or waits for one and
// returns why the ring is locked.
func (v *Vault) handedOver(ctx context.Context, ring *keys.Ring, locked error) (*keys.TierKey, error) {
	person := v.cfg.Person
	key := person.Take()
	if key == nil {
		person.Fetch(ctx)
		key = person.Take()
	}
	if key != nil {
		err := ring.Proves(key)
		if err == nil {
			v.log.Info("tier unlocked with a key that was handed over")
			return key, nil
		}
		locked = errors.Join(locked, err, key.Close())
	}
	if err := person.Listen(); err != nil {
		v.log.Warn("a key cannot be handed over", "error", err)
	}
	return nil, locked
}
