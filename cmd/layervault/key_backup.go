package main

import (
	"context"
	"fmt"

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
		Short: "Back up the key ring to a file",
		Long: `Copy the key ring to a new FILE (mode 0600). Without the ring nothing opens the tier, not
even a recovery key.

The copy has all slots, but no unencrypted key. A passphrase slot can be attacked by
guessing, so keep the copy private. The key file of a versatile slot is not included.
Make a new copy after enroll, remove and rotate.`,
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
	if err := ring.VerifyBackup(name); err != nil {
		return err
	}
	view := backupView{Ring: ring.Path(), ID: ring.ID(), Slots: len(ring.Slots())}
	if a.json {
		return a.printJSON(view)
	}
	if err := a.printf("wrote %d slots of %s to %s\n", view.Slots, view.Ring, name); err != nil {
		return err
	}
	for _, what := range cfg.Outside(ring.Slots()) {
		if err := a.printf("not included: %s; back it up separately\n", what); err != nil {
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
		Short: "Restore the key ring from a backup",
		Long: `Restore the key ring from a backup (- for standard input) when the ring is lost or
damaged. Damaged copies are kept as *.damaged.

If a slot of the backup opens, the images are verified first: a backup that opens no image
is refused. An intact ring is only replaced with --force, and kept as
keyring.json.replaced; delete that file afterwards.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd.Context(), k, args[0], force) },
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	cmd.Flags().BoolVar(&force, "force", false, "replace an intact key ring, or restore a backup that opens no image")
	return cmd
}

func (a *app) restore(ctx context.Context, k keyFlags, name string, force bool) error {
	cfg, err := a.tierConfig(k)
	if err != nil {
		return err
	}
	data, err := secretio.ReadFile(a.in, name, keys.MaxBackup)
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
	return a.printf("images not verified: %v\n", done.Why)
}
