package vault

import (
	"context"
	"errors"

	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// Upgrading brings a vault of format 1 to format 2 while a process serves it. No request waits
// for the whole upgrade: what a client asks meanwhile waits for one layer or volume at most. An
// upgrade that ends because the process stops goes on at the next start.
type Upgrading struct {
	vault *Vault
	off   bool
	// layers and volumes give the stores once they are open; nil where the process does not
	// serve them. The upgrade opens such a store for itself.
	layers  chan *layer.Store
	volumes chan *volume.Store
}

// NewUpgrading makes the upgrade of a vault of which layers, volumes or both are served. With
// off it upgrades nothing, and says so.
func NewUpgrading(v *Vault, layers, volumes, off bool) *Upgrading {
	u := &Upgrading{vault: v, off: off}
	if layers {
		u.layers = make(chan *layer.Store, 1)
	}
	if volumes {
		u.volumes = make(chan *volume.Store, 1)
	}
	return u
}

// LayersOpen takes the store of layers; only the first call counts.
func (u *Upgrading) LayersOpen(s *layer.Store) {
	select {
	case u.layers <- s:
	default:
	}
}

// VolumesOpen takes the store of volumes, nil for one that could not be opened. It is called
// once.
func (u *Upgrading) VolumesOpen(s *volume.Store) { u.volumes <- s }

// Run waits for the stores, and upgrades. It ends with ctx, after the image that it works on.
func (u *Upgrading) Run(ctx context.Context) {
	var layers *layer.Store
	var volumes *volume.Store
	if u.volumes != nil {
		select {
		case volumes = <-u.volumes:
		case <-ctx.Done():
			return
		}
		if volumes == nil {
			return // the log says why
		}
	}
	if u.layers != nil {
		select {
		case layers = <-u.layers: // and the vault is unlocked
		case <-ctx.Done():
			return
		}
	}
	log := u.vault.log
	for _, tier := range SealedTiers {
		store := layers
		if tier != persist.Vault {
			store = nil
		}
		err := u.tier(ctx, tier, store, volumes)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			log.Info("the upgrade to format 2 goes on at the next start", "tier", tier)
			return
		case errors.Is(err, keys.ErrLocked):
			log.Warn("a locked tier is not upgraded to format 2; the next start tries again, or: layervault vault upgrade", "tier", tier, "error", err)
		default:
			log.Error("the tier was not upgraded to format 2; what was done stays done", "tier", tier, "error", err)
		}
	}
}

// tier upgrades one tier. layers and volumes are nil where this process does not serve them.
func (u *Upgrading) tier(ctx context.Context, tier persist.Tier, layers *layer.Store, volumes *volume.Store) (err error) {
	v := u.vault
	// Before it is unlocked, for an upgrade happens once. A ring that lies about its floor gains
	// nothing: the unlocked ring is asked again.
	ring, err := keys.Load(ctx, v.cfg.Layout.KeyRing(tier), v.log)
	if errors.Is(err, keys.ErrNoRing) || err == nil && ring.Floor() >= keys.Format2 {
		return nil
	}
	if err != nil {
		return err
	}
	if u.off {
		v.log.Warn("tier of format 1: not every header and record is authenticated; upgrade=off keeps it so until: layervault vault upgrade", "tier", tier)
		return nil
	}
	open, err := v.Tier(ctx, tier)
	if err != nil {
		return err
	}
	if layers == nil && exists(v.cfg.Layout.Layers(tier)) {
		layers, err = v.openLayers(ctx, tier, open.Source)
		if errors.Is(err, layer.ErrBusy) {
			return nil // the plugin that serves them upgrades this tier
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, layers.Close(context.WithoutCancel(ctx))) }()
	}
	if volumes == nil {
		if volumes, err = v.OpenVolumes(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, volumes.Close()) }()
	}
	v.log.Info("upgrading a tier to format 2", "tier", tier)
	_, err = Upgrade{Contents: v.Contents(tier), Keys: open.Source, Layers: layers, Volumes: volumes, Log: v.log}.Run(ctx)
	return err
}
