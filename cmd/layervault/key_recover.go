package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/unlock"
)

// resealed is one slot in key recover --json and key reseal --json.
type resealed struct {
	Slot     string              `json:"slot"`
	Provider string              `json:"provider"`
	Changed  []*keys.PCRMismatch `json:"changed_pcrs,omitempty"` // why it did not open
	Reason   string              `json:"reason,omitempty"`       // why it did not open
	Sealed   bool                `json:"sealed"`
	Error    string              `json:"error,omitempty"` // why it was not sealed
}

func newKeyRecoverCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Unlock with the recovery key and seal the TPM and trusted slots anew",
		Long: `Unlock with the recovery key and seal anew each TPM or trusted slot that no longer
opens: to the present values of its PCRs, with the chip that is here. It names the PCRs that changed, with old and new value: make
sure that you know why before you trust the machine again. The TPM then remembers this key
ring as the newest one, also if it was refused as an older one.

The key is asked for on the terminal, or read with --recovery-key-file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.recoverTier(cmd.Context(), k)
		},
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	return cmd
}

func (a *app) recoverTier(ctx context.Context, k keyFlags) (err error) {
	cfg, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	var typed []byte
	if k.recovery != "" {
		typed, err = readSecretFile(a.in, k.recovery)
	} else {
		typed, err = a.askSecret(ctx, "recovery key or passphrase")
	}
	if err != nil {
		return err
	}
	defer clear(typed)
	key, _, err := ring.Unlock(ctx, recovery.Typed(typed))
	if err != nil {
		return recoveryFault(err)
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	return a.mendSlots(ctx, cfg, ring, key)
}

// mendSlots seals each TPM and trusted slot anew that does not open, and tells of it.
func (a *app) mendSlots(ctx context.Context, cfg unlock.Config, ring *keys.Ring, key *keys.TierKey) error {
	var done []resealed
	var failures []error
	for _, slot := range ring.Slots() {
		if !unlock.SealedByHardware(slot) {
			continue
		}
		r, err := a.mendSlot(ctx, cfg, ring, key, slot)
		done = append(done, r)
		failures = append(failures, err)
	}
	failures = append(failures, ring.Reanchor(ctx, key))
	if err := a.printResealed(done, "the vault opens; nothing had to be sealed anew\n"); err != nil {
		return err
	}
	return errors.Join(failures...)
}

// recoveryFault leaves out of a locked ring's reasons the slots that recover does not
// try, so that a typing mistake is what the person reads.
func recoveryFault(err error) error {
	var bad *recovery.BadRecovery
	if errors.As(err, &bad) {
		return bad
	}
	return err
}

// mendSlot tries a TPM slot and seals it anew when it does not open.
func (a *app) mendSlot(ctx context.Context, cfg unlock.Config, ring *keys.Ring, key *keys.TierKey, slot keys.Slot) (resealed, error) {
	r := resealed{Slot: slot.ID, Provider: slot.Provider}
	p, err := cfg.Again(ctx, slot)
	if err != nil {
		r.Error = err.Error()
		return r, err
	}
	why := ring.Try(ctx, slot.ID, p)
	if why == nil {
		return r, nil
	}
	r.Changed, r.Reason = keys.ChangedPCRs(why), why.Error()
	if _, err := ring.Reseal(ctx, key, slot.ID, p); err != nil {
		r.Error = err.Error()
		return r, err
	}
	r.Sealed = true
	return r, nil
}

func (a *app) printResealed(done []resealed, nothing string) error {
	if a.json {
		return a.printJSON(map[string]any{"slots": append([]resealed{}, done...)})
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
		word := "sealed anew"
		if !r.Sealed {
			word = "NOT sealed: " + r.Error
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
		Short: "Seal slots anew, to the present PCRs or to others",
		Long: `Seal the named slots anew (all TPM and trusted slots without a name), to the present values of
their PCRs, or of those in --pcrs. The tier must open, by any slot or with
--recovery-key-file. Images are not touched.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reseal(cmd.Context(), k, args)
		},
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	k.providers.register(cmd.Flags(), a.env, keys.ForReseal)
	return cmd
}

func (a *app) reseal(ctx context.Context, k keyFlags, names []string) (err error) {
	cfg, err := a.tierConfig(k)
	if err != nil {
		return err
	}
	key, ring, err := a.unlockTier(ctx, cfg, k)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	var slots []keys.Slot
	for _, name := range names {
		slot, err := findSlot(ring, name)
		if err != nil {
			return err
		}
		slots = append(slots, slot)
	}
	if len(names) == 0 {
		for _, s := range ring.Slots() {
			if unlock.SealedByHardware(s) {
				slots = append(slots, s)
			}
		}
	}
	var done []resealed
	for _, slot := range slots {
		p, err := cfg.Again(ctx, slot)
		if err != nil {
			return err
		}
		if _, err := ring.Reseal(ctx, key, slot.ID, p); err != nil {
			return err
		}
		done = append(done, resealed{Slot: slot.ID, Provider: slot.Provider, Sealed: true})
	}
	// By whatever opened the tier: with a recovery key, also a ring that the TPM refused.
	if err := ring.Reanchor(ctx, key); err != nil {
		return err
	}
	return a.printResealed(done, "there is no TPM or trusted slot to seal anew\n")
}
