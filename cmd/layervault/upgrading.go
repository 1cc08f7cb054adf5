package main

import (
	"context"
	"errors"
	"log/slog"

	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/volume"
)

// upgrading brings a vault of format 1 to format 2 while the plugin serves it: nobody waits
// for it, and what docker asks meanwhile waits for one layer or volume at most. What it does
// not finish, because the plugin stops, the next start does.
type upgrading struct {
	app   *app
	tiers *tiers
	log   *slog.Logger
	off   bool // the setting says so
	// layers and volumes give the stores once they are open. The one of layers is nil where
	// the plugin serves volumes alone.
	layers  chan *layer.Store
	volumes chan *volume.Store
}

func newUpgrading(a *app, s settings, t *tiers, alone bool, log *slog.Logger) *upgrading {
	u := &upgrading{app: a, tiers: t, log: log, off: s.noUpgrade, volumes: make(chan *volume.Store, 1)}
	if !alone {
		u.layers = make(chan *layer.Store, 1)
	}
	return u
}

// layersOpen tells of the layer store; only the first time counts.
func (u *upgrading) layersOpen(s *layer.Store) {
	select {
	case u.layers <- s:
	default:
	}
}

// run waits for the stores, and upgrades. It ends with ctx, after the image it is at.
func (u *upgrading) run(ctx context.Context) {
	var layers *layer.Store
	var volumes *volume.Store
	select {
	case volumes = <-u.volumes:
	case <-ctx.Done():
		return
	}
	if volumes == nil {
		return // somebody was told why
	}
	if u.layers != nil {
		select {
		case layers = <-u.layers: // and the vault is unlocked
		case <-ctx.Done():
			return
		}
	}
	for _, tier := range sealedTiers {
		store := layers
		if tier != persist.Vault {
			store = nil
		}
		err := u.tier(ctx, tier, store, volumes)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			u.log.Info("the upgrade to format 2 goes on at the next start", "tier", tier)
			return
		case errors.Is(err, keys.ErrLocked):
			u.log.Warn("a locked tier is not upgraded to format 2; the next start tries again, or: layervault vault upgrade", "tier", tier, "error", err)
		default:
			u.log.Error("the tier was not upgraded to format 2; what was done stays done", "tier", tier, "error", err, "hint", nextStep(err))
		}
	}
}

// tier upgrades one tier. layers is nil where somebody else, or nobody, serves its layers.
func (u *upgrading) tier(ctx context.Context, tier persist.Tier, layers *layer.Store, volumes *volume.Store) (err error) {
	// Before it is unlocked, for an upgrade happens once. A ring that lies about it keeps its
	// floor from nobody: what is unlocked is asked again.
	ring, err := keys.Load(ctx, u.app.layout().KeyRing(tier), u.log)
	if errors.Is(err, keys.ErrNoRing) || err == nil && ring.Floor() >= keys.Format2 {
		return nil
	}
	if err != nil {
		return err
	}
	if u.off {
		u.log.Warn("tier of format 1: not every header and record is authenticated; upgrade=off keeps it so until: layervault vault upgrade", "tier", tier)
		return nil
	}
	open, err := u.tiers.tier(ctx, tier)
	if err != nil {
		return err
	}
	if layers == nil && exists(u.app.layout().Layers(tier)) {
		layers, err = u.app.openLayers(ctx, tier, open.keys, u.log)
		if errors.Is(err, layer.ErrBusy) {
			return nil // the plugin that serves them upgrades this tier
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, layers.Close(context.WithoutCancel(ctx))) }()
	}
	u.log.Info("upgrading a tier to format 2", "tier", tier)
	_, err = vault.Upgrade{
		Contents: u.app.contents(tier, open.keys), Keys: open.keys, Layers: layers, Volumes: volumes, Log: u.log,
	}.Run(ctx)
	return err
}
