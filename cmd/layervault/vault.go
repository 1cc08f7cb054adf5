package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/volume"
)

// keyConfig says where the vault's key comes from.
func (a *app) keyConfig(s settings, log *slog.Logger) unlock.Config {
	cfg := unlock.Config{
		Tier:     a.layout().Tier(persist.Vault),
		Provider: s.key,
		NoAnchor: s.noAnchor,
		Log:      log,
	}
	cfg.Set, cfg.New = s.providers.values()
	cfg.Secret = func(ctx context.Context, from, what string) ([]byte, error) {
		secret, err := a.readSecret(ctx, from, what)
		if errors.Is(err, fs.ErrNotExist) { // nobody has put it there yet
			return nil, fmt.Errorf("%w: no %s: %w", keys.ErrNeedsPerson, what, err)
		}
		return secret, err
	}
	return cfg
}

// tierKeys are the keys of an open tier, and what docker info tells of its slots.
type tierKeys struct {
	*unlock.Source
	slots []string
}

// started is when this process was, and tpmPatience how long after that the device of a TPM
// may appear: drivers that are modules have been seen to take ten seconds, and a machine
// that has no TPM is to say so soon.
var started = time.Now()

const tpmPatience = 20 * time.Second

// openTier unlocks a tier, or makes it when there is none. A locked vault opens with a key
// that a person handed over (key unlock), for which person, if there is one, then waits.
func (a *app) openTier(ctx context.Context, tier persist.Tier, s settings, person *handover.Receiver, log *slog.Logger) (tierKeys, error) {
	cfg := a.tierKeys(tier, s, log)
	cfg.WaitUntil = started.Add(tpmPatience)
	if tier != persist.Vault {
		person = nil
	}
	var err error
	if cfg.Floor, err = a.floorOfNew(ctx, tier); err != nil {
		return tierKeys{}, err
	}
	typed, err := a.typedKey(s)
	if err != nil {
		return tierKeys{}, err
	}
	defer clear(typed)
	cfg.Recovery = typed
	key, ring, err := unlock.OpenOrCreate(ctx, cfg)
	cfg.Recovery = nil
	if errors.Is(err, keys.ErrLocked) && person != nil {
		key, err = handedOver(ctx, ring, person, log, err)
	}
	if err != nil {
		return tierKeys{}, err
	}
	if person != nil {
		if err := person.Cancel(); err != nil { // it opened by itself meanwhile
			return tierKeys{}, errors.Join(err, key.Close())
		}
	}
	providers, err := cfg.Providers()
	if err != nil {
		return tierKeys{}, errors.Join(err, key.Close())
	}
	if ring.Rotating() {
		err := a.finishRotation(ctx, tier, ring, key, log)
		if errors.Is(err, unix.EROFS) {
			log.Warn("a rotation of the tier key was cut short and cannot be finished on a disk that is read-only: images that are not done yet do not open", "tier", cfg.Tier)
			err = nil
		}
		if err != nil {
			return tierKeys{}, errors.Join(err, key.Close())
		}
	}
	v := tierKeys{Source: unlock.NewSource(cfg, key)}
	for _, slot := range ring.Summary(providers...) {
		v.slots = append(v.slots, slotLine(slot))
	}
	return v, nil
}

// floorOfNew is the floor of a tier's ring that is made now. What was written while there
// was no vault yet, such as the host's revision, has nobody to vouch for it: the upgrade at
// the next start takes it in.
func (a *app) floorOfNew(ctx context.Context, tier persist.Tier) (int, error) {
	if _, err := os.Lstat(a.layout().KeyRing(tier)); tier != persist.Vault || !errors.Is(err, fs.ErrNotExist) {
		return keys.Format2, nil
	}
	version, err := volume.RevisionVersion(a.layout())
	if err != nil {
		return 0, err
	}
	if version == keys.Format1 {
		return keys.Format1, nil
	}
	all, err := volume.List(ctx, a.layout())
	if err != nil {
		return 0, err
	}
	for _, v := range all {
		if v.KeyTier() == tier && v.Unauthenticated() {
			return keys.Format1, nil
		}
	}
	return keys.Format2, nil
}

// typedKey reads the recovery key that a person named; nil where nobody did. The caller
// wipes it.
func (a *app) typedKey(s settings) ([]byte, error) {
	if s.recovery == "" {
		return nil, nil
	}
	return readSecretFile(a.in, s.recovery)
}

// handedOver gives the key that a person handed over or offers, or waits for one and
// returns why the ring is locked.
func handedOver(ctx context.Context, ring *keys.Ring, person *handover.Receiver, log *slog.Logger, locked error) (*keys.TierKey, error) {
	key := person.Take()
	if key == nil {
		person.Fetch(ctx)
		key = person.Take()
	}
	if key != nil {
		err := ring.Proves(key)
		if err == nil {
			log.Info("tier unlocked with a key that was handed over")
			return key, nil
		}
		locked = errors.Join(locked, err, key.Close())
	}
	if err := person.Listen(); err != nil {
		log.Warn("nobody can hand a key over", "error", err)
	}
	return nil, locked
}

// slotLine describes a slot in one line, without its state.
func slotLine(s keys.SlotState) string {
	line := s.ID + " " + s.Provider
	if s.PCRs != "" {
		line += " PCRs " + s.PCRs
	}
	if s.Software {
		line += " (software only)"
	}
	if s.Label != "" {
		line += fmt.Sprintf(" %q", s.Label)
	}
	return line
}
