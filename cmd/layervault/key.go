package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"layervault/advice"
	"layervault/keys"
	"layervault/keys/flags"
	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/vault"
)

func newKeyCommand(a *app) *cobra.Command {
	return group("key", "Manage the key slots that open the vault",
		newKeyListCommand(a),
		newKeyEnrollCommand(a),
		newKeyRemoveCommand(a),
		newKeyUnlockCommand(a),
		newKeyRecoverCommand(a),
		newKeyResealCommand(a),
		newKeyRotateCommand(a),
		newKeyBackupCommand(a),
		newKeyRestoreCommand(a),
		newKeyUnpinCommand(a),
		newKeyEscrowCommand(a),
		newKeySignPolicyCommand(a),
		newKeyLoadPolicyCommand(a),
	)
}

// keyFlags are what the key verbs share.
type keyFlags struct {
	tier      string
	key       string // provider whose slots may open although they are of software alone
	providers flags.Set
	recovery  string // file with the recovery key, "-" for standard input
	anchor    string // "tpm" or "none"
}

// register adds the flags of verbs that read or open the tier.
func (k *keyFlags) register(f *pflag.FlagSet, env func(string) string) {
	k.add(f, env, keys.ForKeys|keys.ForAll)
}

// registerSealing adds those and the flags of verbs that seal slots.
func (k *keyFlags) registerSealing(f *pflag.FlagSet, env func(string) string) {
	k.add(f, env, keys.ForKeys|keys.ForMaking|keys.ForAll)
}

func (k *keyFlags) add(f *pflag.FlagSet, env func(string) string, use keys.Use) {
	f.StringVar(&k.tier, "tier", string(persist.Vault), "tier: vault or unsealed-vault")
	f.StringVar(&k.key, "key", env("key"), "provider whose slots are accepted without protection by hardware: "+unlock.Names("", "or")+" (env key)")
	k.providers.Register(f, env, use)
	k.anchor = envOr(env, "anchor", anchorTPM)
	registerAnchor(f, &k.anchor)
}

// The values of the setting anchor.
const (
	anchorTPM  = "tpm"
	anchorNone = "none"
)

// noAnchor reads the setting anchor.
func noAnchor(anchor string) (bool, error) {
	if anchor != anchorTPM && anchor != anchorNone {
		return false, usagef("setting anchor=%q: must be %s or %s", anchor, anchorTPM, anchorNone)
	}
	return anchor == anchorNone, nil
}

// registerUnlock adds the ways for a person to unlock.
func (k *keyFlags) registerUnlock(f *pflag.FlagSet, env func(string) string) {
	f.StringVar(&k.recovery, "recovery-key-file", "", "unlock with the recovery key or passphrase in this file, - for standard input")
	k.providers.Register(f, env, keys.ForPerson)
}

// config turns the flags into settings of the key ring.
func (a *app) tierConfig(k keyFlags) (unlock.Config, error) {
	t := persist.Tier(k.tier)
	if t != persist.Vault && t != persist.Unsealed {
		return unlock.Config{}, usagef("--tier %q: must be %s or %s", k.tier, persist.Vault, persist.Unsealed)
	}
	if err := k.providers.Check(); err != nil {
		return unlock.Config{}, &advice.UsageError{Err: err}
	}
	noAnchor, err := noAnchor(k.anchor)
	if err != nil {
		return unlock.Config{}, err
	}
	cfg := unlock.Config{
		Tier:       a.layout().Tier(t),
		Provider:   k.key,
		Unmeasured: t == persist.Unsealed,
		NoAnchor:   noAnchor,
		Secret:     a.readSecret,
		Log:        a.ringLog(),
	}
	cfg.Set, cfg.New = k.providers.Values()
	return cfg, nil
}

// loadRing reads the ring of the tier that the flags name.
func (a *app) loadRing(ctx context.Context, k keyFlags) (unlock.Config, *keys.Ring, error) {
	cfg, err := a.tierConfig(k)
	if err != nil {
		return cfg, nil, err
	}
	ring, err := cfg.Load(ctx)
	return cfg, ring, err
}

// unlockTier opens the tier with the slots that need no person, or with what the
// flags name. The caller closes the key.
func (a *app) unlockTier(ctx context.Context, cfg unlock.Config, k keyFlags) (_ *keys.TierKey, _ *keys.Ring, err error) {
	if cfg.Recovery, err = a.typedKey(k.recovery); err != nil {
		return nil, nil, err
	}
	defer clear(cfg.Recovery)
	key, ring, _, err := unlock.Open(ctx, cfg)
	return key, ring, err
}

// withKey calls f with the tier open, as unlockTier opens it.
func (a *app) withKey(ctx context.Context, k keyFlags, f func(cfg unlock.Config, key *keys.TierKey, ring *keys.Ring) error) error {
	cfg, err := a.tierConfig(k)
	if err != nil {
		return err
	}
	key, ring, err := a.unlockTier(ctx, cfg, k)
	if err != nil {
		return err
	}
	return errors.Join(f(cfg, key, ring), key.Close())
}

// ringView is key list --json, and what the other verbs print of a slot.
type ringView struct {
	Ring  string           `json:"ring"`
	ID    string           `json:"id"`
	Slots []keys.SlotState `json:"slots"`
	// Rotating: a rotation of the tier key was cut short.
	Rotating bool `json:"rotating"`
	Version  int  `json:"version"` // of the ring's file; 1 has no MAC
	// Anchored: a TPM remembers the ring's newest write. Otherwise an older
	// ring, with slots that were removed since, could be put in place unnoticed.
	Anchored bool `json:"anchored"`
}

func newKeyListCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the key slots and try each that needs no person",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, ring, err := a.loadRing(cmd.Context(), k)
			if err != nil {
				return err
			}
			cfg.Looking = true
			providers, err := cfg.Providers()
			if err != nil {
				return err
			}
			view := ringView{Ring: ring.Path(), ID: ring.ID(), Slots: ring.Probe(cmd.Context(), providers...), Rotating: ring.Rotating(), Version: ring.Version(), Anchored: ring.Anchored()}
			if a.json {
				return a.printJSON(view)
			}
			if err := a.printSlots(view.Slots); err != nil {
				return err
			}
			if err := a.printf("%s\n", vault.AnchorLine(view.Anchored)); err != nil || !view.Rotating {
				return err
			}
			return a.printf("unfinished rotation of the tier key: finish with \"layervault key rotate\"\n")
		},
	}
	k.register(cmd.Flags(), a.env)
	return cmd
}

func (a *app) printSlots(slots []keys.SlotState) error {
	rows := make([][]string, 0, len(slots))
	for _, s := range slots {
		rows = append(rows, []string{s.ID, s.Provider, orDash(s.Label), s.Created.Format("2006-01-02"), orDash(s.PCRs), string(s.State), orDash(s.Detail)})
	}
	if err := a.table([]string{"SLOT", "PROVIDER", "LABEL", "CREATED", "PCRS", "STATE", "DETAIL"}, rows); err != nil {
		return err
	}
	for _, s := range slots {
		if s.Reason != "" {
			if err := a.printf("slot %s: %s\n", s.ID, s.Reason); err != nil {
				return err
			}
		}
	}
	return nil
}

func newKeyRemoveCommand(a *app) *cobra.Command {
	var k keyFlags
	var force bool
	cmd := &cobra.Command{
		Use:   "remove SLOT",
		Short: "Remove a key slot",
		Long: `Remove a key slot. SLOT is a slot ID or the start of one. The tier must open, with any
slot or with --recovery-key-file.

The slot's bytes are overwritten on the disk. Copies of keyring.json, snapshots and blocks
that the disk relocated stay. If others may know the slot, remove it and then rotate the
tier key (layervault key rotate), which makes the slot useless.

The last slot, and the last recovery slot, are only removed with --force. Without a slot
the tier never opens again: all its data is lost.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.removeSlot(cmd.Context(), k, args[0], force) },
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	cmd.Flags().BoolVar(&force, "force", false, "remove even the last slot, or the last recovery slot")
	return cmd
}

func (a *app) removeSlot(ctx context.Context, k keyFlags, name string, force bool) error {
	_, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	slot, err := ring.Find(name)
	if err != nil {
		return err
	}
	return a.withKey(ctx, k, func(_ unlock.Config, key *keys.TierKey, ring *keys.Ring) error {
		if err := ring.Remove(ctx, key, slot.ID, force); err != nil {
			return err
		}
		return a.result(map[string]string{"removed": slot.ID}, "removed slot %s; if others may know the slot: layervault key rotate\n", slot.Title())
	})
}
