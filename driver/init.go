package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/user"

	"layervault/internal/durable"
	"layervault/layer"
	"layervault/persist"
)

// initFile keeps what Init said, in the tier's directory: dockerd restarts a
// crashed plugin but does not call Init again. It holds no secret.
const initFile = "driver.json"

// initVersion is the format of initFile.
const initVersion = 1

// savedInit is the content of initFile.
type savedInit struct {
	Version int     `json:"version"`
	Options Options `json:"options"`
}

// Init opens the vault and readies home. A vault that stays locked makes it fail
// with the reason. Calling it again is fine: with a dockerd that was restarted,
// with other options, or because the first answer was lost.
func (d *Driver) Init(ctx context.Context, opts Options) error {
	d.starting.Lock()
	defer d.starting.Unlock()
	if err := d.start(ctx, opts); err != nil {
		return fmt.Errorf("layervault: start the driver: %w", err)
	}
	return d.saveInit(opts)
}

// Resume redoes the last Init, from the file it left. Without one it does
// nothing: dockerd will call Init.
func (d *Driver) Resume(ctx context.Context) error {
	d.starting.Lock()
	defer d.starting.Unlock()
	return d.resume(ctx)
}

func (d *Driver) resume(ctx context.Context) error {
	d.mu.Lock()
	up := d.up
	d.mu.Unlock()
	if up != nil {
		return nil
	}
	opts, err := d.loadInit()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := d.start(ctx, opts); err != nil {
		return fmt.Errorf("layervault: start the driver again: %w", err)
	}
	return nil
}

// session is what every method begins with. A driver that could not resume at
// the plugin's start, say because its TPM was busy, tries again.
func (d *Driver) session(ctx context.Context) (*session, error) {
	d.mu.Lock()
	up := d.up
	d.mu.Unlock()
	if up != nil {
		return up, nil
	}
	if err := d.Resume(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.up == nil {
		return nil, fmt.Errorf("%w: dockerd has not called Init", ErrNotReady)
	}
	return d.up, nil
}

// start does the work of Init. d.starting is held.
func (d *Driver) start(ctx context.Context, opts Options) error {
	size, err := parseInitOpts(opts.Opts)
	if err != nil {
		return err
	}
	if size == 0 {
		size = d.cfg.DefaultSize
	}
	idmap := user.IdentityMapping{UIDMaps: opts.UIDMaps, GIDMaps: opts.GIDMaps}
	if err := d.openStore(ctx); err != nil {
		return err
	}
	if err := prepareHome(opts.Home, idmap); err != nil {
		return err
	}
	d.mu.Lock()
	up := &session{store: d.store, home: opts.Home, size: size, idmap: idmap}
	d.mu.Unlock()
	if err := d.sweepHome(ctx, up); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = up
	// This dockerd knows of no Get of ours; what it finds mounted counts as one.
	d.counts.reset()
	return nil
}

// openStore unlocks the vault and opens the store, each once.
func (d *Driver) openStore(ctx context.Context) error {
	d.mu.Lock()
	keys, store := d.keys, d.store
	d.mu.Unlock()
	if keys == nil {
		if d.cfg.Unlock == nil {
			return errors.New("no way to unlock the vault was configured")
		}
		var err error
		if keys, err = d.cfg.Unlock(ctx); err != nil {
			return fmt.Errorf("unlock the vault: %w", err)
		}
		d.mu.Lock()
		d.keys = keys
		d.mu.Unlock()
	}
	if store != nil {
		return nil
	}
	store, err := layer.Open(ctx, layer.Config{
		Root: d.cfg.Layout.Layers(persist.Vault), Scratch: d.cfg.Scratch, Devices: d.cfg.Devices(keys),
		SweepDevices: d.cfg.SweepDevices, Checkpoint: d.cfg.Checkpoint, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store = store
	return nil
}

// homeMode lets a remapped root, who owns the group, pass through to a merged
// mount, and nobody else.
const homeMode = 0o710

func prepareHome(home string, idmap user.IdentityMapping) error {
	if !filepath.IsAbs(home) || filepath.Clean(home) != home || home == "/" {
		return fmt.Errorf("%w %q: it must be a clean absolute path", ErrBadHome, home)
	}
	_, gid := idmap.RootPair()
	if err := user.MkdirAllAndChown(home, homeMode, os.Getuid(), gid); err != nil {
		return fmt.Errorf("make the home directory: %w", err)
	}
	return nil
}

func (d *Driver) saveInit(opts Options) error {
	data, err := json.MarshalIndent(savedInit{initVersion, opts}, "", "  ")
	if err != nil {
		return fmt.Errorf("keep what Init said: %w", err)
	}
	root, err := os.OpenRoot(d.cfg.Layout.Tier(persist.Vault))
	if err != nil {
		return fmt.Errorf("keep what Init said: %w", err)
	}
	err = durable.WriteFile(root, "."+initFile+".tmp", initFile, append(data, '\n'), 0o600)
	return errors.Join(err, root.Close())
}

func (d *Driver) loadInit() (Options, error) {
	name := filepath.Join(d.cfg.Layout.Tier(persist.Vault), initFile)
	data, err := os.ReadFile(name)
	if err != nil {
		return Options{}, err
	}
	var saved savedInit
	if err := json.Unmarshal(data, &saved); err != nil {
		return Options{}, fmt.Errorf("%s is damaged, restart dockerd to have it written anew: %w", name, err)
	}
	if saved.Version != initVersion {
		return Options{}, fmt.Errorf("%s has format version %d, this program knows %d: restart dockerd to have it written anew",
			name, saved.Version, initVersion)
	}
	return saved.Options, nil
}
