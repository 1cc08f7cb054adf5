package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"layervault/driver"
	"layervault/internal/flock"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/volume"
)

// sealedTiers are the tiers that have a key.
var sealedTiers = []persist.Tier{persist.Vault, persist.Unsealed}

// upgradeVerb is vault upgrade.
type upgradeVerb struct {
	*volumeVerb
	dryRun, force bool
}

// upgradeView is one tier in vault upgrade --json.
type upgradeView struct {
	Tier   string `json:"tier"`
	DryRun bool   `json:"dry_run"`
	Floor  int    `json:"floor"` // the lowest format that the tier takes now
	// Upgraded: this run raised it.
	Upgraded bool `json:"upgraded"`
	formatsView
	// Refused resisted, or was put back after the upgrade: it does not open.
	Refused []string `json:"refused"`
}

// formatsView is what a tier has, or had before the upgrade, of each format.
type formatsView struct {
	Images     int      `json:"images"`
	Records    int      `json:"records"`
	OldImages  []string `json:"old_images"` // of format 1, by title
	OldRecords []string `json:"old_records"`
	Problems   []string `json:"problems"`
}

func formatsOf(f vault.Formats) formatsView {
	view := formatsView{
		Images: f.Images, Records: f.Records, Problems: []string{},
		OldImages: append([]string{}, f.OldImages...), OldRecords: append([]string{}, f.OldRecords...),
	}
	for _, p := range f.Problems {
		view.Problems = append(view.Problems, p.Error())
	}
	return view
}

func newVaultCommand(a *app) *cobra.Command {
	return group("vault", "Work on a whole vault", newVaultUpgradeCommand(a))
}

func newVaultUpgradeCommand(a *app) *cobra.Command {
	u := &upgradeVerb{}
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Bring images, records and key rings of format 1 to format 2, in place",
		Long: `Bring images, records and key rings of format 1 to format 2, in place: the vault and the
unsealed-vault, with what they vouch for in the clear tier and on disks.

In format 2 the tier's key vouches for every header and every record, so that nobody who
can only write to the disk decides how they are read. When everything is of format 2,
the tier refuses format 1. Data is not encrypted anew, and keys stay.

The plugin does this by itself at its first start, unless its setting is upgrade=off. So no
plugin may run meanwhile; containers may. Cut short at whatever point, nothing is lost: run
it again, or start the plugin.

What does not open is named, and the tier goes on taking format 1 until that is removed,
mended, or taken in with "layervault image adopt". --force does not wait for it: it opened
with no key of this tier before, either.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return u.run(cmd.Context()) },
	}
	u.volumeVerb = a.newVolumeVerb(cmd.Flags())
	cmd.Flags().BoolVarP(&u.dryRun, "dry-run", "n", false, "show what is of format 1 and whether it opens, and change nothing")
	cmd.Flags().BoolVar(&u.force, "force", false, "refuse format 1 although something does not open")
	return cmd
}

// run goes through the tiers. One that cannot be upgraded does not keep the other.
func (u *upgradeVerb) run(ctx context.Context) error {
	if err := errors.Join(u.set.check(), u.vol.check()); err != nil {
		return err
	}
	views := []upgradeView{}
	var errs []error
	found := false
	for _, tier := range sealedTiers {
		ring, err := keys.Load(ctx, u.app.layout().KeyRing(tier), u.app.ringLog())
		if errors.Is(err, keys.ErrNoRing) {
			continue
		}
		found = true
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", tier, err))
			continue
		}
		do := u.upgrade
		if u.dryRun {
			do = u.look
		}
		view, err := do(ctx, tier, ring)
		views, errs = append(views, view), append(errs, err)
	}
	if !found {
		return fmt.Errorf("upgrade: %w in %s", keys.ErrNoRing, u.app.persist)
	}
	return errors.Join(append(errs, u.print(views))...)
}

// look is the dry run. It takes no lock: a plugin may run.
func (u *upgradeVerb) look(ctx context.Context, tier persist.Tier, ring *keys.Ring) (_ upgradeView, err error) {
	view := upgradeView{Tier: string(tier), DryRun: true, Floor: ring.Floor(), Refused: []string{}}
	found, err := vault.Survey(ctx, u.app.contents(tier, nil), nil)
	view.formatsView = formatsOf(found)
	if err != nil {
		return view, err
	}
	if found.Old() > 0 && view.Floor > 1 {
		view.Refused = append(append(view.Refused, found.OldImages...), found.OldRecords...)
		return view, nil
	}
	cfg := u.app.tierKeys(tier, u.set, u.app.ringLog())
	cfg.Looking = true
	if cfg.Recovery, err = u.app.typedKey(u.set); err != nil {
		return view, err
	}
	defer clear(cfg.Recovery)
	key, _, _, err := unlock.Open(ctx, cfg)
	if err != nil {
		return view, fmt.Errorf("whether everything opens: unlock %s: %w", tier, err)
	}
	source := unlock.NewSource(cfg, key)
	defer func() { err = errors.Join(err, source.Close()) }()
	found, err = vault.Survey(ctx, u.app.contents(tier, source), source)
	if err != nil {
		return view, err
	}
	view.formatsView = formatsOf(found)
	return view, nil
}

// upgrade upgrades one tier.
func (u *upgradeVerb) upgrade(ctx context.Context, tier persist.Tier, ring *keys.Ring) (view upgradeView, err error) {
	view = upgradeView{Tier: string(tier), Floor: ring.Floor(), Refused: []string{}, formatsView: formatsOf(vault.Formats{})}
	log := u.app.ringLog()
	// First: it finishes a rotation that was cut short, for which it takes the locks itself.
	opened, err := u.app.openTier(ctx, tier, u.set, nil, log)
	if err != nil {
		return view, fmt.Errorf("unlock %s: %w", tier, err)
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	layers, release, err := u.app.ownTier(ctx, tier, opened.Source, log)
	if err != nil {
		return view, err
	}
	defer func() { err = errors.Join(err, release()) }()
	volumes, err := u.app.openVolumes(ctx, u.set, u.vol, onlyTier(tier, opened.Source), log)
	if err != nil {
		return view, err
	}
	defer func() { err = errors.Join(err, volumes.Close()) }()
	done, err := vault.Upgrade{
		Contents: u.app.contents(tier, opened.Source), Keys: opened.Source, Layers: layers, Volumes: volumes,
		Force: u.force, Progress: u.app.upgradeProgress(), Log: log,
	}.Run(ctx)
	view.formatsView, view.Floor, view.Upgraded, view.Refused = formatsOf(done.Before), done.Floor, done.Raised, append(view.Refused, done.Refused...)
	return view, err
}

// onlyTier is how a store of volumes reaches the key of the one tier that is open.
func onlyTier(open persist.Tier, source *unlock.Source) volumeKeys {
	return func(_ context.Context, tier persist.Tier) (volume.KeySource, error) {
		if tier != open {
			return nil, fmt.Errorf("%w: %s is not open here", keys.ErrLocked, tier)
		}
		return source, nil
	}
}

// tierKeys is keyConfig for any tier.
func (a *app) tierKeys(tier persist.Tier, s settings, log *slog.Logger) unlock.Config {
	cfg := a.keyConfig(s, log)
	if tier != persist.Vault {
		// What must open before attestation cannot depend on what was measured.
		cfg.Tier, cfg.PCRs, cfg.Unmeasured = a.layout().Tier(tier), "none", true
	}
	return cfg
}

// ownTier takes a tier as lockTier does, with its layer store open where it has one.
func (a *app) ownTier(ctx context.Context, tier persist.Tier, source *unlock.Source, log *slog.Logger) (_ *layer.Store, release func() error, err error) {
	var layers *layer.Store
	if tier == persist.Vault || exists(a.layout().Layers(tier)) {
		if layers, err = a.openLayers(ctx, tier, source, log); err != nil {
			if errors.Is(err, layer.ErrBusy) {
				err = fmt.Errorf("%w (a running plugin upgrades the vault by itself, unless it was set to upgrade=off; layervault status shows how far)", err)
			}
			return nil, nil, err
		}
	}
	lock, err := lockFile(filepath.Join(a.layout().Volumes(tier), ".lock"), flock.Exclusive)
	if err != nil {
		err = fmt.Errorf("lock the volumes: %w", err)
		if layers != nil {
			err = errors.Join(err, layers.Close(context.WithoutCancel(ctx)))
		}
		return nil, nil, err
	}
	return layers, func() error {
		err := lock.Close()
		if layers != nil {
			err = errors.Join(err, layers.Close(context.WithoutCancel(ctx)))
		}
		return err
	}, nil
}

// openLayers opens a layer store to look after headers and records.
func (a *app) openLayers(ctx context.Context, tier persist.Tier, source *unlock.Source, log *slog.Logger) (*layer.Store, error) {
	s := settings{}
	return layer.Open(ctx, layer.Config{
		Root: a.layout().Layers(tier), Keys: source, Devices: layer.NewDevices(source, s.crypt(), log), Log: log,
	})
}

// contents says where everything of a tier is. source authenticates the driver's record when
// that is written anew.
func (a *app) contents(tier persist.Tier, source *unlock.Source) vault.Contents {
	c := vault.Contents{Layout: a.layout(), Tier: tier, Images: func() ([]vault.Image, error) {
		known, err := a.knownImages(tier)
		images := make([]vault.Image, len(known))
		for i, im := range known {
			images[i] = vault.Image{Kind: im.kind, ID: im.id, Path: im.path, Unused: im.leftover}
		}
		return images, err
	}}
	if tier == persist.Vault {
		c.Records = []vault.Record{{
			Title:   "record of the driver's start",
			Version: func() int { return driver.RecordVersion(a.layout()) },
			Upgrade: func() error {
				err := driver.UpgradeRecord(a.layout(), source)
				if errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
				return err
			},
		}}
	}
	return c
}

// upgradeProgress shows how far an upgrade is on a terminal, and nothing elsewhere.
func (a *app) upgradeProgress() func(part string, done, total int, name string) {
	if a.json || !isTerminal(a.err) {
		return nil
	}
	return func(part string, done, total int, _ string) {
		_, _ = fmt.Fprintf(a.err, "\rupgraded %d of %d %s", done, total, part)
		if done == total {
			_, _ = fmt.Fprintln(a.err)
		}
	}
}

func (u *upgradeVerb) print(views []upgradeView) error {
	if u.app.json {
		return u.app.printJSON(views)
	}
	var b strings.Builder
	for _, v := range views {
		v.describe(&b)
	}
	return u.app.printf("%s", b.String())
}

// describe says for people what was done, or is to be done.
func (v upgradeView) describe(b *strings.Builder) {
	old := fmt.Sprintf("%d of %d images and %d of %d records", len(v.OldImages), v.Images, len(v.OldRecords), v.Records)
	switch {
	case v.Upgraded:
		fmt.Fprintf(b, "%s: upgraded; %s were of format 1, which is refused from now on\n", v.Tier, old)
	case v.Floor > 1:
		fmt.Fprintf(b, "%s: of format 2\n", v.Tier)
	case v.DryRun:
		fmt.Fprintf(b, "%s: %s are of format 1\n", v.Tier, old)
	default:
		fmt.Fprintf(b, "%s: not upgraded, format 1 is still accepted\n", v.Tier)
	}
	if v.DryRun && v.Floor == 1 {
		for _, title := range append(v.OldImages, v.OldRecords...) {
			fmt.Fprintf(b, "  would upgrade %s\n", title)
		}
		for _, p := range v.Problems {
			fmt.Fprintf(b, "  does not open: %s\n", p)
		}
	}
	for _, r := range v.Refused {
		fmt.Fprintf(b, "  refused: %s; take an image in with \"layervault image adopt\", or remove it\n", r)
	}
}
