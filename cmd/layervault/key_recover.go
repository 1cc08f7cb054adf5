package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
	"layervault/vault"
)

func newKeyRecoverCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Unlock with the recovery key, and reseal the TPM and trusted slots",
		Long: `Unlock with the recovery key, and reseal each TPM or trusted slot that no longer opens: to
the current values of its PCRs, with this machine's chip. The PCRs that changed are printed
with old and new value: find out why before you trust the machine again. The TPM then
records this key ring as the newest one, even if it was refused as an older one.

The key is read from the terminal, or with --recovery-key-file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.recoverTier(cmd.Context(), k) },
	}
	k.registerSealing(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	return cmd
}

func (a *app) recoverTier(ctx context.Context, k keyFlags) (err error) {
	cfg, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	typed, err := a.typedKey(k.recovery)
	if err == nil && typed == nil {
		typed, err = secretio.Ask(ctx, a.in, a.err, "recovery key or passphrase")
	}
	if err != nil {
		return err
	}
	defer clear(typed)
	key, _, err := ring.Unlock(ctx, recovery.Typed(typed))
	if err != nil {
		return recovery.Reason(err)
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	return a.mendSlots(ctx, cfg, ring, key)
}

// mendSlots reseals each TPM and trusted slot that does not open, and prints the result.
func (a *app) mendSlots(ctx context.Context, cfg unlock.Config, ring *keys.Ring, key *keys.TierKey) error {
	done, err := vault.Mend(ctx, ring, key, unlock.HardwareSlots(ring), func(slot keys.Slot) (keys.Provider, error) { return cfg.Again(ctx, slot) })
	if printErr := a.printResealed(done, "the vault opens; no slot needed resealing\n"); printErr != nil {
		return printErr
	}
	return err
}

func (a *app) printResealed(done []vault.Resealed, nothing string) error {
	if a.json {
		return a.printJSON(map[string]any{"slots": append([]vault.Resealed{}, done...)})
	}
	touched := false
	for _, r := range done {
		if r.Reason == "" && !r.Sealed && r.Error == "" {
			continue
		}
		touched = true
		for _, c := range r.Changed {
			if err := a.printf("slot %s: PCR %d (%s) changed\n  old %s\n  new %s\n", r.Slot, c.Index, c.Bank, c.Old, c.New); err != nil {
				return err
			}
		}
		if len(r.Changed) == 0 && r.Reason != "" {
			if err := a.printf("slot %s: %s\n", r.Slot, r.Reason); err != nil {
				return err
			}
		}
		word := "resealed"
		if !r.Sealed {
			word = "NOT resealed: " + r.Error
		}
		if err := a.printf("slot %s: %s\n", r.Slot, word); err != nil {
			return err
		}
	}
	if !touched {
		return a.printf("%s", nothing)
	}
	return nil
}

func newKeyResealCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "reseal [SLOT...]",
		Short: "Reseal slots, to the current PCRs or to others",
		Long: `Reseal the named slots, or without a name all TPM and trusted slots, to the current values
of their PCRs, or of those in --pcrs. The tier must open, with any slot or with
--recovery-key-file. Images are not changed.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.reseal(cmd.Context(), k, args) },
	}
	k.registerSealing(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	k.providers.Register(cmd.Flags(), a.env, keys.ForReseal)
	return cmd
}

func (a *app) reseal(ctx context.Context, k keyFlags, names []string) error {
	return a.withKey(ctx, k, func(cfg unlock.Config, key *keys.TierKey, ring *keys.Ring) error {
		var slots []keys.Slot
		for _, name := range names {
			slot, err := ring.Find(name)
			if err != nil {
				return err
			}
			slots = append(slots, slot)
		}
		if len(names) == 0 {
			slots = unlock.HardwareSlots(ring)
		}
		done, err := vault.Reseal(ctx, ring, key, slots, func(slot keys.Slot) (keys.Provider, error) { return cfg.Again(ctx, slot) })
		if err != nil {
			return err
		}
		return a.printResealed(done, "no TPM or trusted slot to reseal\n")
	})
}
