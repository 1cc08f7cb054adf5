package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/recovery"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
	"layervault/persist"
)

func newKeyUnlockCommand(a *app) *cobra.Command {
	var k keyFlags
	var wait bool
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Unlock with a PIN or recovery key, and give the key to the waiting plugin",
		Long: `Unlock the vault and give its key to the running plugin, which waits for the key while the
vault is locked. Use a TPM slot with a PIN (--pin-file), or the recovery key
(--recovery-key-file, or typed at the prompt); no slot is resealed. The key is used until
the plugin stops. Nothing is written.

A plugin that serves dockerd's own layers does not wait for long: dockerd exits when the
vault is locked, and its plugins with it. In that case run this command with --wait before
dockerd is started:

    layervault key unlock --wait --pin-file FILE & systemctl start docker`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.unlockPlugin(cmd.Context(), k, wait) },
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the plugin if none waits for the key yet")
	return cmd
}

func (a *app) unlockPlugin(ctx context.Context, k keyFlags, wait bool) (err error) {
	if k.tier != string(persist.Vault) {
		return usagef("--tier %q: must be vault, the tier that the plugin opens", k.tier)
	}
	cfg, err := a.tierConfig(k)
	if err != nil {
		return err
	}
	key, slot, err := a.openByPerson(ctx, cfg, k)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	err = handover.Give(ctx, cfg.Tier, key)
	if wait && errors.Is(err, handover.ErrNobody) {
		err = handover.Offer(ctx, cfg.Tier, key, func() {
			_, _ = fmt.Fprintln(a.err, "waiting for the plugin: start docker now")
		})
	}
	if err != nil {
		return err
	}
	return a.result(map[string]string{"slot": slot.ID, "provider": slot.Provider}, "gave the key of slot %s to the plugin\n", slot.Title())
}

// openByPerson opens the tier with what the flags name, or asks for the recovery key when
// nothing opens without a person.
func (a *app) openByPerson(ctx context.Context, cfg unlock.Config, k keyFlags) (_ *keys.TierKey, _ keys.Slot, err error) {
	if cfg.Recovery, err = a.typedKey(k.recovery); err != nil {
		return nil, keys.Slot{}, err
	}
	defer clear(cfg.Recovery)
	key, ring, slot, err := unlock.Open(ctx, cfg)
	if !errors.Is(err, keys.ErrLocked) || k.recovery != "" || !secretio.IsTerminal(a.in) {
		return key, slot, err
	}
	typed, err := secretio.Ask(ctx, a.in, a.err, "recovery key or passphrase")
	if err != nil {
		return nil, keys.Slot{}, err
	}
	defer clear(typed)
	key, slot, err = ring.Unlock(ctx, recovery.Typed(typed))
	if err != nil {
		return nil, keys.Slot{}, recovery.Reason(err)
	}
	return key, slot, nil
}
