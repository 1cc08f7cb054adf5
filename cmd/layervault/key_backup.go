package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/persist"
)

// backupView is key backup --json and key restore --json.
type backupView struct {
	Ring   string `json:"ring"` // path of keyring.json
	ID     string `json:"id"`
	Slots  int    `json:"slots"`
	Opens  bool   `json:"opens"`  // restore: a slot opened without a person
	Images int    `json:"images"` // restore: how many images were tried and open
}

func newKeyBackupCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the key ring to a file, against its loss",
		Long: `Copy the key ring to a new FILE (mode 0600). Without the ring nothing opens the tier, not
even a recovery key.

The copy holds no key in the clear, but all slots: a passphrase of your own can be
guessed at, so keep it where few can read it. The key file of a versatile slot is not
in it. After enroll, remove and rotate make a new one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backup(cmd.Context(), k, args[0])
		},
	}
	k.register(cmd.Flags(), a.env)
	return cmd
}

func (a *app) backup(ctx context.Context, k keyFlags, name string) error {
	cfg, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	data, err := ring.Backup()
	if err != nil {
		return err
	}
	if err := writeSecret(a.out, name, data); err != nil {
		return err
	}
	if name == "-" {
		return nil
	}
	// A disk may lie; a backup is needed once.
	back, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if _, err := keys.ReadBackup(back, ring.Path(), nil); err != nil {
		return fmt.Errorf("%s was written and reads back differently: %w", name, err)
	}
	view := backupView{Ring: ring.Path(), ID: ring.ID(), Slots: len(ring.Slots())}
	if a.json {
		return a.printJSON(view)
	}
	if err := a.printf("wrote %d slots of %s to %s\n", view.Slots, view.Ring, name); err != nil {
		return err
	}
	for _, what := range cfg.Outside(ring.Slots()) {
		if err := a.printf("%s is not in it: back it up elsewhere\n", what); err != nil {
			return err
		}
	}
	return nil
}

func newKeyRestoreCommand(a *app) *cobra.Command {
	var k keyFlags
	var force bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup of the key ring in place",
		Long: `Put a backup of the key ring (- for standard input) in place of one that is lost or
damaged; damaged copies are kept as *.damaged.

Where a slot of the backup opens, the images are tried first: a backup that opens none
of them is refused. A sound ring is only replaced with --force, and kept as
keyring.json.replaced; delete that when all is well.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.restore(cmd.Context(), k, args[0], force)
		},
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	cmd.Flags().BoolVar(&force, "force", false, "replace a sound key ring, or one whose images the backup does not open")
	return cmd
}

// errOpensNothing: a backup whose key opens none of the images.
var errOpensNothing = errors.New("the backup opens none of the images")

func (a *app) restore(ctx context.Context, k keyFlags, name string, force bool) (err error) {
	cfg, err := a.tierConfig(k)
	if err != nil {
		return err
	}
	data, err := a.readRing(name)
	if err != nil {
		return err
	}
	ring, err := keys.ReadBackup(data, cfg.RingPath(), cfg.Log)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	tier := persist.Tier(k.tier)
	release, err := a.lockTier(tier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	view := backupView{Ring: ring.Path(), ID: ring.ID(), Slots: len(ring.Slots())}
	key, why, err := a.openBackup(ctx, cfg, k, ring)
	if err != nil {
		return err
	}
	if key != nil {
		defer func() { err = errors.Join(err, key.Close()) }()
		view.Opens = true
		if err := a.tryBackup(ctx, tier, key, &view); err != nil && !force {
			return err
		}
	}
	cfg.Anchor(ring)
	if err := ring.Restore(ctx, key, force); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(view)
	}
	if err := a.printf("restored %s with %d slots\n", view.Ring, view.Slots); err != nil {
		return err
	}
	if view.Opens {
		return a.printf("it opens, and %d images with it\n", view.Images)
	}
	return a.printf("not tried on images: %v\n", why)
}

// openBackup opens a backup. One that opens without a person is the exception after a
// change of hardware, so why it does not is told and no error. A backup that somebody
// changed is an error.
func (a *app) openBackup(ctx context.Context, cfg unlock.Config, k keyFlags, ring *keys.Ring) (key *keys.TierKey, why, err error) {
	if k.recovery != "" {
		typed, err := readSecretFile(a.in, k.recovery)
		if err != nil {
			return nil, nil, err
		}
		defer clear(typed)
		cfg.Recovery = typed
	}
	providers, err := cfg.Providers()
	if err != nil {
		return nil, nil, err
	}
	key, _, why = ring.Unlock(ctx, providers...)
	if errors.Is(why, keys.ErrForgedRing) {
		return nil, nil, why
	}
	return key, why, nil
}

// tryBackup tries the images with the key of a backup.
func (a *app) tryBackup(ctx context.Context, tier persist.Tier, key *keys.TierKey, view *backupView) error {
	images, err := a.tierImages(tier)
	if err != nil && !errors.Is(err, errOtherImages) {
		return err
	}
	for _, im := range images {
		if err = im.Opens(ctx, key); err == nil {
			view.Images++
		}
	}
	if view.Images == 0 && len(images) > 0 {
		return fmt.Errorf("%w: it is of another vault, or of before a rotation (--force restores it all the same): %w", errOpensNothing, err)
	}
	return nil
}

// readRing reads a backup, - for standard input.
func (a *app) readRing(name string) ([]byte, error) {
	if name == "-" {
		return readAtMost(a.in, "standard input", maxRing)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, maxRing)
}

// maxRing bounds what is read as a backup: more than package keys takes.
const maxRing = 2 << 20
