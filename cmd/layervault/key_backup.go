package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/secretio"
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
		RunE: func(cmd *cobra.Command, args []string) error { return a.backup(cmd.Context(), k, args[0]) },
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
	if err := secretio.Write(a.out, name, data); err != nil {
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
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd.Context(), k, args[0], force) },
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	cmd.Flags().BoolVar(&force, "force", false, "replace a sound key ring, or one whose images the backup does not open")
	return cmd
}

func (a *app) restore(ctx context.Context, k keyFlags, name string, force bool) error {
	cfg, err := a.tierConfig(k)
	if err != nil {
		return err
	}
	data, err := secretio.ReadFile(a.in, name, maxRing)
	if err != nil {
		return err
	}
	if cfg.Recovery, err = a.typedKey(k.recovery); err != nil {
		return err
	}
	defer clear(cfg.Recovery)
	done, err := a.contents(persist.Tier(k.tier)).Restore(ctx, cfg, data, force)
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	view := backupView{Ring: done.Ring.Path(), ID: done.Ring.ID(), Slots: len(done.Ring.Slots()), Opens: done.Opens, Images: done.Images}
	if a.json {
		return a.printJSON(view)
	}
	if err := a.printf("restored %s with %d slots\n", view.Ring, view.Slots); err != nil {
		return err
	}
	if view.Opens {
		return a.printf("the vault opens; %d images verified\n", view.Images)
	}
	return a.printf("not tried on images: %v\n", done.Why)
}

// maxRing bounds what is read as a backup: more than package keys takes.
const maxRing = 2 << 20
