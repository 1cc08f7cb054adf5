// Package plugin runs the plugin: docker's doors on one socket and containerd's on others, over
// one vault.
package plugin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"layervault/driver"
	"layervault/layer"
	"layervault/plugin/graph"
	"layervault/plugin/socket"
	volumedoor "layervault/plugin/volume"
	"layervault/vault"
	"layervault/volume"
)

// drainTime is how long a stopping plugin waits for requests under way: dockerd kills it 10 s
// after it asked it to stop.
const drainTime = 8 * time.Second

// Config says what a plugin serves.
type Config struct {
	Vault *vault.Vault
	// Driver is how the graph driver works; nil to serve volumes alone. Serve fills in what
	// ties it to the vault.
	Driver *driver.Config
	// Containerd is how snapshots are served; nil for not at all.
	Containerd *Containerd
	// NoUpgrade leaves a vault of format 1 as it is.
	NoUpgrade bool
	// SealOlder seals sealed layers of an older form anew, SealCommitted the layers that builds and
	// commits leave in writable images.
	SealOlder, SealCommitted bool
	// NextStep is the command to type after an error, "" for none; nil for no advice.
	NextStep func(error) string
	Log      *slog.Logger
}

// Serve answers on l, nil for none of docker's doors, and on the listeners of cfg.Containerd,
// until ctx ends, and closes what it opened; the vault stays open. The doors open while it
// answers already: dockerd takes a plugin for dead that does not accept within seconds, and a TPM
// or a sweep after a crash may take longer.
func Serve(ctx context.Context, l net.Listener, cfg Config) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	log := cfg.Log
	upgrade := vault.NewUpgrading(cfg.Vault, cfg.Driver != nil || cfg.Containerd != nil, l != nil, cfg.NoUpgrade)
	var starting sync.WaitGroup
	sealing := vault.NewSealing(cfg.Vault, cfg.SealOlder, cfg.SealCommitted)
	opened := func(store *layer.Store) {
		upgrade.LayersOpen(store)
		sealing.LayersOpen(store)
	}
	var doors []socket.Door
	var d *driver.Driver
	if cfg.Driver != nil {
		front := graph.New(log, cfg.NextStep)
		doors = append(doors, front)
		settings := *cfg.Driver
		// dockerd, or systemd, starts a plugin that ends with an error.
		settings.Fatal, settings.Unlock, settings.Started = fail, cfg.Vault.Borrow, opened
		if cfg.Containerd != nil {
			settings.OpenStore = cfg.Vault.LayersFrom(cfg.Containerd.Scratch)
		}
		d = driver.New(settings)
		sealing.Final = d.Seal
		starting.Go(func() {
			// After a crash dockerd does not call Init again. A failure is the answer to the
			// next request: the driver tries again at each.
			if err := d.Resume(ctx); err != nil {
				log.Error("cannot take up where the last run ended", "error", err)
			}
			front.Open(d)
		})
	}
	var snaps *snapshots
	if cfg.Containerd != nil {
		snaps = newSnapshots(ctx, cfg, opened)
		starting.Go(func() { snaps.door.Warm(ctx) })
	}
	var store *volume.Store
	if l != nil {
		volumes := volumedoor.New(log, cfg.NextStep)
		doors = append(doors, volumes)
		starting.Go(func() {
			store = openVolumes(ctx, volumes, cfg)
			upgrade.VolumesOpen(store)
		})
	}
	behind, stop := context.WithCancel(ctx)
	defer stop()
	starting.Go(func() {
		upgrade.Run(behind) // first: what is sealed anew must be of format 2
		sealing.Run(behind)
	})

	err := serveAll(ctx, l, doors, snaps)
	stop()
	starting.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, driver.ErrAstray) {
		err = errors.Join(err, cause)
	}
	log.Info("layervault stops")
	// The snapshotter before the store that it shares with the driver.
	if snaps != nil {
		err = errors.Join(err, snaps.close(context.WithoutCancel(ctx)))
	}
	if d != nil {
		err = errors.Join(err, d.Close(context.WithoutCancel(ctx)))
	}
	if store != nil {
		err = errors.Join(err, store.Close())
	}
	return err
}

// serveAll answers on all sockets until ctx ends, or until one of them fails.
func serveAll(ctx context.Context, l net.Listener, doors []socket.Door, snaps *snapshots) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	serve := func(f func() error) {
		all.Go(func() {
			defer stop()
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	if l != nil {
		serve(func() error { return socket.Serve(ctx, l, drainTime, doors...) })
	}
	if snaps != nil {
		for _, one := range snaps.cfg.Listeners {
			serve(func() error { return snaps.door.Serve(ctx, one.Listener, drainTime, one.Services) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// openVolumes opens the volume store for its door. The vault may be locked: volumes are
// listed all the same.
func openVolumes(ctx context.Context, door *volumedoor.Server, cfg Config) *volume.Store {
	if cfg.Driver == nil && cfg.Containerd == nil { // else the layer store does so
		if err := vault.Sweep(ctx); err != nil {
			cfg.Log.Warn("cannot sweep devices that an earlier run left", "error", err)
		}
	}
	store, err := cfg.Vault.OpenVolumes(ctx)
	if err != nil {
		cfg.Log.Error("no volumes can be served", "error", err)
		door.Refuse(err)
		return nil
	}
	if err := store.Heal(ctx); err != nil {
		cfg.Log.Error("cannot restore mounts of an earlier run", "error", err)
	}
	door.Open(store)
	return store
}
