package vault

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"layervault/crypt"
	"layervault/disk"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// Volumes says how volumes are kept.
type Volumes struct {
	Mounts      string // folder where volumes are mounted for docker
	MountsGID   int    // group that may pass through Mounts
	DefaultSize int64  // of a volume, in bytes
	Disks       string // device.json; "" for no disks
	DiskRoot    string // folder that all disks must lie below; "" for the layout's root
}

// VolumeKeys opens a tier for volumes and disks.
type VolumeKeys = func(context.Context, persist.Tier) (crypt.KeySource, error)

// OpenVolumes opens the store of volumes. No tier is opened before a volume needs its key.
func (v *Vault) OpenVolumes(ctx context.Context) (*volume.Store, error) {
	return v.openVolumes(ctx, v.KeysOf)
}

func (v *Vault) openVolumes(ctx context.Context, keys VolumeKeys) (*volume.Store, error) {
	c := v.cfg.Volumes
	return volume.Open(ctx, volume.Config{
		Layout: v.cfg.Layout, Mounts: c.Mounts, MountsGID: c.MountsGID, Keys: keys, Disks: v.volumeDisks(keys),
		DefaultSize: c.DefaultSize, CryptParams: v.cfg.CryptParams, Log: v.log,
	})
}

// LoadDisks reads the file of disks. No tier is opened before a disk needs its key.
func (v *Vault) LoadDisks() (*disk.Set, error) { return v.loadDisks(v.KeysOf) }

func (v *Vault) loadDisks(keys VolumeKeys) (*disk.Set, error) {
	root := v.cfg.Volumes.DiskRoot
	if root == "" {
		root = v.cfg.Layout.Root
	}
	rules := disk.Rules{Root: filepath.Clean(root), Layout: v.cfg.Layout}
	return disk.Load(disk.Config{Rules: rules, Keys: keys, Params: v.cfg.CryptParams, Log: v.log}, v.cfg.Volumes.Disks)
}

// volumeDisks gives the disks for volumes; nil when none is configured. What is wrong with
// their file is said to the caller that wants a disk of it.
func (v *Vault) volumeDisks(keys VolumeKeys) volume.Disks {
	file := v.cfg.Volumes.Disks
	if file == "" {
		return nil
	}
	set, err := v.loadDisks(keys)
	if err != nil {
		v.log.Warn("no disk can be used", "error", err)
	}
	for _, w := range set.Warnings() {
		v.log.Warn("entry of device.json was ignored", "file", file, "entry", w.Entry, "reason", w.Text)
	}
	return set
}

// openLayers opens a tier's store of layers to work on headers and records: it mounts
// nothing.
func (v *Vault) openLayers(ctx context.Context, tier persist.Tier, keys crypt.KeySource) (*layer.Store, error) {
	return OpenLayers(ctx, v.cfg.Layout, tier, layer.Config{
		Keys: keys, Devices: layer.NewDevices(keys, crypt.Params{}, crypt.VerityPrefer, v.log), Log: v.log,
	})
}

// OpenLayers opens a tier's store of layers; cfg needs no Root. Error: layer.ErrBusy for a
// tier whose layers another process has.
func OpenLayers(ctx context.Context, l persist.Layout, tier persist.Tier, cfg layer.Config) (*layer.Store, error) {
	cfg.Root = l.Layers(tier)
	return layer.Open(ctx, cfg)
}

// sharedLayers is the vault's store of layers, once a door has opened it.
type sharedLayers struct {
	mu    sync.Mutex
	store *layer.Store
}

// Layers opens the vault's store of layers, once for all doors of a process: it has one owner.
// keys are those of Borrow; scratch is that of layer.Config, and that of the first call counts.
// Whoever closes the store closes it for all.
func (v *Vault) Layers(ctx context.Context, keys crypt.KeySource, scratch string) (*layer.Store, error) {
	v.layers.mu.Lock()
	defer v.layers.mu.Unlock()
	if v.layers.store != nil {
		return v.layers.store, nil
	}
	store, err := OpenLayers(ctx, v.cfg.Layout, persist.Vault, layer.Config{
		Scratch: scratch, Keys: keys, Devices: v.devices(keys), SweepDevices: crypt.Sweep,
		Corrupted: crypt.Corrupted, Log: v.log,
	})
	if err != nil {
		return nil, err
	}
	v.layers.store = store
	return store, nil
}

// devices makes the images of layers.
func (v *Vault) devices(keys crypt.KeySource) layer.Devices {
	if v.cfg.Devices != nil {
		return v.cfg.Devices(keys)
	}
	return layer.NewDevices(keys, v.cfg.CryptParams, v.cfg.Verity, v.log)
}

// LayersFrom is Layers for a door that is handed its store by a function.
func (v *Vault) LayersFrom(scratch string) func(context.Context, crypt.KeySource) (*layer.Store, error) {
	return func(ctx context.Context, keys crypt.KeySource) (*layer.Store, error) {
		return v.Layers(ctx, keys, scratch)
	}
}

// Sweep removes devices of images that an earlier process left behind. No other process may
// open images meanwhile.
func Sweep(ctx context.Context) error { return crypt.Sweep(ctx) }

// ErrUpgrading: the plugin that has the tier upgrades it by itself, unless it was set to
// upgrade=off. The error is layer.ErrBusy too.
var ErrUpgrading = errors.New("a running plugin upgrades its vault by itself")

// own takes a tier as Contents.Lock does, with its layer store open where it has one.
func (v *Vault) own(ctx context.Context, tier persist.Tier, keys crypt.KeySource) (_ *layer.Store, release func() error, err error) {
	var layers *layer.Store
	if tier == persist.Vault || exists(v.cfg.Layout.Layers(tier)) {
		if layers, err = v.openLayers(ctx, tier, keys); err != nil {
			if errors.Is(err, layer.ErrBusy) {
				err = fmt.Errorf("%w; %w", err, ErrUpgrading)
			}
			return nil, nil, err
		}
	}
	closeLayers := func() error {
		if layers == nil {
			return nil
		}
		return layers.Close(context.WithoutCancel(ctx))
	}
	lock, err := v.Contents(tier).lockVolumes()
	if err != nil {
		return nil, nil, errors.Join(err, closeLayers())
	}
	return layers, func() error { return errors.Join(lock.Close(), closeLayers()) }, nil
}
