package driver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	"github.com/moby/sys/user"

	"layervault/crypt"
	"layervault/internal/keylock"
	"layervault/layer"
	"layervault/persist"
	"layervault/stack"
	"layervault/vault"
)

// Driver is the graph driver. It is safe for concurrent use: calls on one layer
// wait for each other, calls on different layers do not.
type Driver struct {
	cfg   Config
	log   *slog.Logger
	locks keylock.Locks

	// starting is held while the driver is brought up, which may take as long as a
	// TPM does. mu is only ever held for a moment.
	starting sync.Mutex
	mu       sync.Mutex
	keys     crypt.KeySource // once unlocked
	store    *layer.Store    // once opened
	up       *session        // once Init said where
	counts   counts
}

// session is what one Init said, parsed.
type session struct {
	store *layer.Store
	stack *stack.Stack
	home  string
	size  int64 // of writable layers
	idmap user.IdentityMapping
}

// New makes a driver that waits for Init.
func New(cfg Config) *Driver {
	if cfg.DefaultSize == 0 {
		cfg.DefaultSize = DefaultSize
	}
	if cfg.Scratch == "" {
		cfg.Scratch = defaultScratch
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Fatal == nil {
		cfg.Fatal = func(error) {}
	}
	if cfg.Started == nil {
		cfg.Started = func(*layer.Store) {}
	}
	if cfg.Devices == nil {
		params, verity, log := cfg.CryptParams, cfg.Verity, cfg.Log
		cfg.Devices = func(keys crypt.KeySource) layer.Devices { return layer.NewDevices(keys, params, verity, log) }
	}
	if cfg.SweepDevices == nil {
		cfg.SweepDevices = crypt.Sweep
	}
	if cfg.Corrupted == nil {
		cfg.Corrupted = crypt.Corrupted
	}
	if cfg.OpenStore == nil {
		own := cfg
		cfg.OpenStore = func(ctx context.Context, keys crypt.KeySource) (*layer.Store, error) {
			return vault.OpenLayers(ctx, own.Layout, persist.Vault, layer.Config{
				Scratch: own.Scratch, Keys: keys, Devices: own.Devices(keys), SweepDevices: own.SweepDevices,
				Corrupted: own.Corrupted, Checkpoint: own.Checkpoint, Log: own.Log,
			})
		}
	}
	return &Driver{cfg: cfg, log: cfg.Log}
}

// String is the driver's name.
func (d *Driver) String() string { return Name }

// Close closes the vault: warm images, the store's lock, the key. Mounts that
// containers use stay.
func (d *Driver) Close(ctx context.Context) error {
	d.starting.Lock()
	defer d.starting.Unlock()
	d.mu.Lock()
	store, keys := d.store, d.keys
	d.store, d.keys, d.up = nil, nil, nil
	d.mu.Unlock()
	var errs []error
	if store != nil {
		errs = append(errs, store.Close(ctx))
	}
	if c, ok := keys.(io.Closer); ok {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Store is the layer store, once the vault is open: for other front doors and
// for people's tools in the same process.
func (d *Driver) Store() (*layer.Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store == nil {
		return nil, ErrNotReady
	}
	return d.store, nil
}
