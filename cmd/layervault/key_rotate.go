package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/vault"
)

// rotateFlags say how to rotate.
type rotateFlags struct {
	keyFlags
	carry []string // files with recovery keys of slots that stay
	drop  []string
	force bool
}

// rotatedView is key rotate --json.
type rotatedView struct {
	Images  int               `json:"images"`
	Resumed bool              `json:"resumed"`
	Lost    map[string]string `json:"lost"` // given up with --force: why
	Dropped []string          `json:"dropped_slots"`
	Slots   []keys.SlotState  `json:"slots"`
}

func newKeyRotateCommand(a *app) *cobra.Command {
	var r rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the tier key; the old key then opens nothing",
		Long: `Make a new tier key, wrap it for every key slot, replace the LUKS2 key slot of every
image, and destroy the old key. Use this when others may know the old key or a slot. Data
is not re-encrypted: a copy of an image stays readable with its old key.

The plugin must be stopped; containers may run. An interrupted rotation loses nothing:
this command, or the next start of the plugin, finishes it.

A slot that needs a person is kept with its secret: --carry FILE has a recovery key or
passphrase, --pin-file the PIN of a TPM slot. --drop SLOT removes a slot.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rotate(cmd.Context(), r) },
	}
	f := cmd.Flags()
	r.registerSealing(f, a.env)
	r.registerUnlock(f, a.env)
	f.StringArrayVar(&r.carry, "carry", nil, "keep the recovery slot opened by this file (repeatable)")
	f.StringArrayVar(&r.drop, "drop", nil, "remove this slot (repeatable)")
	f.BoolVar(&r.force, "force", false, "give up images that cannot be rekeyed: they never open again")
	return cmd
}

func (a *app) rotate(ctx context.Context, r rotateFlags) error {
	cfg, ring, err := a.loadRing(ctx, r.keyFlags) // before the lock makes the tier's folder
	if err != nil {
		return err
	}
	rotation := vault.Rotation{
		Open: func(ctx context.Context) (*keys.TierKey, *keys.Ring, error) {
			return a.unlockTier(ctx, cfg, r.keyFlags)
		},
		Again: func(slot keys.Slot) (keys.Provider, error) { return cfg.Again(ctx, slot) },
		Force: r.force,
	}
	if show := a.progress("rekeyed"); show != nil {
		rotation.Progress = func(done, total int, _ string) { show(done, total, "images") }
	}
	if !ring.Rotating() {
		defer func() {
			for _, text := range rotation.Typed {
				clear(text)
			}
		}()
		if err := a.carry(ring, r, &rotation); err != nil {
			return err
		}
	}
	done, ring, err := a.contents(persist.Tier(r.tier)).Rotate(ctx, rotation)
	if err != nil {
		return err
	}
	return a.printRotated(ring, cfg, done, rotation.Drop)
}

// carry sets which slots are dropped, and the secrets of those that need a person.
func (a *app) carry(ring *keys.Ring, r rotateFlags, rotation *vault.Rotation) error {
	files := r.carry
	if r.recovery != "" && r.recovery != "-" {
		files = append(slices.Clone(files), r.recovery) // what unlocks may be carried too
	}
	for _, name := range files {
		text, err := secretio.Read(a.in, name)
		if err != nil {
			return err
		}
		rotation.Typed = append(rotation.Typed, text)
	}
	for _, name := range r.drop {
		slot, err := ring.Find(name)
		if err != nil {
			return err
		}
		rotation.Drop = append(rotation.Drop, slot.ID)
	}
	return nil
}

func (a *app) printRotated(ring *keys.Ring, cfg unlock.Config, done keys.Rotated, dropped []string) error {
	providers, err := cfg.Providers()
	if err != nil {
		return err
	}
	view := rotatedView{
		Images: done.Images, Resumed: done.Resumed, Lost: map[string]string{},
		Dropped: append([]string{}, dropped...), Slots: ring.Summary(providers...),
	}
	for _, l := range done.Lost {
		view.Lost[l.Image] = l.Err.Error()
	}
	if a.json {
		return a.printJSON(view)
	}
	word := "rotated the tier key"
	if done.Resumed {
		word = "finished the rotation of the tier key"
	}
	if err := a.printf("%s: %d images, %d slots\n", word, view.Images, len(view.Slots)); err != nil {
		return err
	}
	for _, l := range done.Lost {
		if err := a.printf("lost: %v\n", l); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(view.Slots, func(s keys.SlotState) bool { return s.Provider == recovery.Name }) {
		return a.printf("no recovery slot: layervault key enroll recovery\n")
	}
	return nil
}
