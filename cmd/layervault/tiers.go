package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"layervault/driver"
	"layervault/internal/keylock"
	"layervault/keys/handover"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// tiers opens the tiers' keys for one process, each once, when it is first needed. The
// doors of a plugin share them: a TPM is slow, and a person hands a key over once. One
// tier that is slow to open does not keep another.
type tiers struct {
	app    *app
	set    settings
	person *handover.Receiver // waits for the vault's key; nil where nobody would hand it over
	log    *slog.Logger

	locks keylock.Locks
	open  map[persist.Tier]*openedTier // guarded by each tier's lock
}

type openedTier struct {
	keys   *unlock.Source
	slots  []string
	unlock func() error // of the lock that keeps a rotation off
}

func newTiers(a *app, s settings, person *handover.Receiver, log *slog.Logger) *tiers {
	return &tiers{app: a, set: s, person: person, log: log, open: map[persist.Tier]*openedTier{
		persist.Vault: {}, persist.Unsealed: {},
	}}
}

// tier opens a tier, or makes its key ring when there is none.
func (t *tiers) tier(ctx context.Context, name persist.Tier) (*openedTier, error) {
	at, ok := t.open[name]
	if !ok {
		return nil, fmt.Errorf("tier %s has no key", name)
	}
	unlock, err := t.locks.Lock(ctx, string(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if at.keys != nil {
		return at, nil
	}
	v, err := t.app.openTier(ctx, name, t.set, t.person, t.log)
	if err != nil {
		return nil, err
	}
	// After the opening, which finishes a rotation that was cut short. Should one begin in
	// between, the source follows it.
	release, err := t.share(ctx, name)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	at.keys, at.slots, at.unlock = v.Source, v.slots, release
	return at, nil
}

// sharePatience is how long a rotation of a few images is waited for.
const (
	sharePatience = 3 * time.Second
	sharePause    = 50 * time.Millisecond
)

func (t *tiers) share(ctx context.Context, name persist.Tier) (unlock func() error, err error) {
	for end := time.Now().Add(sharePatience); ; {
		unlock, err = t.app.shareTier(name)
		if !errors.Is(err, layer.ErrBusy) || time.Now().After(end) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(sharePause):
		}
	}
}

// forVolumes is how the volume store reaches keys.
func (t *tiers) forVolumes(ctx context.Context, name persist.Tier) (volume.KeySource, error) {
	at, err := t.tier(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("unlock %s: %w", name, err)
	}
	return at.keys, nil
}

// forDriver is how the graph driver reaches the vault's key.
func (t *tiers) forDriver(ctx context.Context) (driver.KeySource, error) {
	at, err := t.tier(ctx, persist.Vault)
	if err != nil {
		return nil, err
	}
	return sharedVault{at.keys, at.slots}, nil
}

// sharedVault is the vault as the graph driver sees it. Closing it closes nothing: the
// volumes may still want the key.
type sharedVault struct {
	keys  *unlock.Source
	slots []string
}

var _ driver.SlotLister = sharedVault{}

func (v sharedVault) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	return v.keys.Passphrase(format, kind, id, imageUUID)
}

func (v sharedVault) MAC(what string, data []byte) ([]byte, error) { return v.keys.MAC(what, data) }

func (v sharedVault) Floor() int { return v.keys.Floor() }

// SlotSummaries implements driver.SlotLister.
func (v sharedVault) SlotSummaries() []string { return v.slots }

// Close wipes the keys. Nobody may use them any more.
func (t *tiers) Close() error {
	var errs []error
	for _, at := range t.open {
		if at.keys != nil {
			errs = append(errs, at.keys.Close(), at.unlock())
			*at = openedTier{}
		}
	}
	return errors.Join(errs...)
}
