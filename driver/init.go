package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/user"

	"layervault/crypt"
	"layervault/internal/authentic"
	"layervault/internal/durable"
	"layervault/persist"
	"layervault/stack"
	"layervault/vault"
)

// initFile holds the arguments of Init, in the tier's directory: dockerd restarts a
// crashed plugin but does not call Init again. It holds no secret.
const initFile = "driver.json"

// initVersion is the format of initFile; version 1 was not authenticated.
const (
	initVersion    = 2
	oldInitVersion = 1
)

// initFormat is what is read of initFile. Options with the most ID maps that the
// kernel takes are 50 KiB.
var initFormat = durable.Format{Oldest: oldInitVersion, Newest: initVersion, MaxSize: 1 << 20}

// initKind is initFile's kind in its authentication.
const initKind = "driver"

// savedInit is the content of initFile.
type savedInit struct {
	Version int     `json:"version"`
	Options Options `json:"options"`
	// MAC authenticates the rest; see package authentic. In the home directory that the
	// file names, directories are created, and emptied.
	MAC string `json:"mac,omitempty"`
}

// seal returns the encoded file, with the tier's authentication.
func (s savedInit) seal(keys authentic.Keys) ([]byte, error) {
	s.Version = initVersion
	if err := authentic.Seal(keys, initKind, &s, &s.MAC); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(s, "", "  ")
	return append(data, '\n'), err
}

func (s savedInit) authentic(keys authentic.Keys) error {
	return authentic.Verify(keys, initKind, &s, &s.MAC)
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
	d.mu.Lock()
	keys, store := d.keys, d.store
	d.mu.Unlock()
	if err := d.saveInit(opts, keys); err != nil {
		return err
	}
	d.cfg.Started(store)
	return nil
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
	saved, err := d.loadInit()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := d.authenticate(ctx, saved); err != nil {
		return fmt.Errorf("layervault: start the driver again: %w", err)
	}
	opts := saved.Options
	if err := d.start(ctx, opts); err != nil {
		return fmt.Errorf("layervault: start the driver again: %w", err)
	}
	d.mu.Lock()
	keys, store := d.keys, d.store
	d.mu.Unlock()
	if saved.Version == oldInitVersion {
		// A tier that is upgraded later would not believe it any more.
		if err := d.saveInit(opts, keys); err != nil {
			d.log.WarnContext(ctx, "cannot rewrite the Init record in the current format", "path", d.initPath(), "error", err)
		}
	}
	d.cfg.Started(store)
	return nil
}

// session is the first step of every method. A driver that could not resume at the
// plugin's start, because its TPM was busy for example, tries again.
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
	if err := stack.CheckInodes(); err != nil {
		d.log.WarnContext(ctx, "files of one container may show several devices", "error", err)
	}
	d.mu.Lock()
	up := &session{store: d.store, stack: stack.New(d.store, idmap, d.log), home: opts.Home, size: size, idmap: idmap}
	d.mu.Unlock()
	if err := d.sweepHome(ctx, up); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = up
	// This dockerd knows of no earlier Get; an existing mount counts as one.
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
			return errors.New("no function to unlock the vault is configured")
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
	store, err := d.cfg.OpenStore(ctx, keys)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store = store
	return nil
}

// homeMode lets a remapped root, owner of the group, pass through to a merged mount,
// and no other user.
const homeMode = 0o710

func prepareHome(home string, idmap user.IdentityMapping) error {
	if !filepath.IsAbs(home) || filepath.Clean(home) != home || home == "/" {
		return fmt.Errorf("%w %q: must be a clean absolute path", ErrBadHome, home)
	}
	_, gid := idmap.RootPair()
	if err := user.MkdirAllAndChown(home, homeMode, os.Getuid(), gid); err != nil {
		return fmt.Errorf("make the home directory: %w", err)
	}
	return nil
}

// authenticate opens the vault and checks that the Init record was written with its key.
func (d *Driver) authenticate(ctx context.Context, saved savedInit) error {
	if err := d.openStore(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	keys := d.keys
	d.mu.Unlock()
	var err error
	if saved.Version != oldInitVersion {
		err = saved.authentic(keys)
	} else if keys.Floor() > oldInitVersion {
		err = authentic.ErrOldFormat
	}
	if err != nil {
		return fmt.Errorf("%s: %w; restart dockerd to write the Init record again", d.initPath(), err)
	}
	return nil
}

func (d *Driver) initPath() string { return filepath.Join(d.cfg.Layout.Tier(persist.Vault), initFile) }

func (d *Driver) saveInit(opts Options, keys authentic.Keys) error {
	data, err := savedInit{Options: opts}.seal(keys)
	if err != nil {
		return fmt.Errorf("write the Init record: %w", err)
	}
	if err := durable.Replace(d.initPath(), "."+initFile+".tmp", data); err != nil {
		return fmt.Errorf("write the Init record: %w", err)
	}
	return nil
}

func (d *Driver) loadInit() (savedInit, error) {
	f, err := os.Open(d.initPath())
	if err != nil {
		return savedInit{}, err
	}
	data, err := initFormat.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return savedInit{}, err
	}
	saved, err := decodeInit(d.initPath(), data)
	if err != nil {
		return savedInit{}, fmt.Errorf("%w: restart dockerd to write the Init record again", err)
	}
	return saved, nil
}

// decodeInit parses initFile; authentication is separate.
func decodeInit(path string, data []byte) (savedInit, error) {
	var saved savedInit
	if err := initFormat.Decode(path, data, &saved); err != nil {
		return savedInit{}, err
	}
	return saved, nil
}

// Records are the driver's records in a tier, for rotations and upgrades: what Init said, in
// the vault. No driver may run while one is written.
func Records(l persist.Layout, tier persist.Tier) []vault.Record {
	if tier != persist.Vault {
		return nil
	}
	d := New(Config{Layout: l})
	return []vault.Record{{
		Title:   "record of the driver's start",
		Version: d.recordVersion,
		Upgrade: func(keys crypt.KeySource) error { return d.upgradeRecord(keys) },
		Rekey:   d.rekeyRecord,
	}}
}

// rekeyRecord authenticates the Init record with next instead of old. It may be repeated. A
// record of neither key is left alone: dockerd calls Init again.
func (d *Driver) rekeyRecord(old, next authentic.Keys) error {
	saved, err := d.loadInit()
	if err != nil || saved.Version == oldInitVersion || saved.authentic(old) != nil {
		return nil
	}
	return d.saveInit(saved.Options, next)
}

// recordVersion is the version of the Init record; 0 if it is missing or unreadable: dockerd
// calls Init again.
func (d *Driver) recordVersion() int {
	saved, err := d.loadInit()
	if err != nil {
		return 0
	}
	return saved.Version
}

// upgradeRecord rewrites an unauthenticated Init record in the current version. It is one
// rename.
func (d *Driver) upgradeRecord(keys authentic.Keys) error {
	saved, err := d.loadInit()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || saved.Version != oldInitVersion {
		return err
	}
	return d.saveInit(saved.Options, keys)
}
