package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/unlock"
	"layervault/persist"
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
		Short: "Replace the tier key: every image gets a new key slot, the old key opens nothing",
		Long: `Make a new tier key, wrap it for every key slot, exchange the LUKS2 key slot of every
image, and forget the old key: for when the old one, or a slot of it, may be known to
others. Data is not encrypted anew: who copied an image together with its old key opens
the copy for ever.

No plugin may run meanwhile; containers may. A rotation that is cut short, at whatever
point, loses nothing: this command, or the next start of the plugin, finishes it.

A slot that needs a person is carried over with what opens it: --carry FILE holds a
recovery key or passphrase, --pin-file a TPM slot's PIN. --drop SLOT leaves one behind.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rotate(cmd.Context(), r) },
	}
	f := cmd.Flags()
	r.register(f, a.env)
	r.registerUnlock(f, a.env)
	f.StringArrayVar(&r.carry, "carry", nil, "a recovery slot stays, that opens with what is in this file; give it once for each slot")
	f.StringArrayVar(&r.drop, "drop", nil, "the new key does not get this slot")
	f.BoolVar(&r.force, "force", false, "give up images that cannot be exchanged: nothing opens them again")
	return cmd
}

func (a *app) rotate(ctx context.Context, r rotateFlags) (err error) {
	cfg, err := a.tierConfig(r.keyFlags)
	if err != nil {
		return err
	}
	if _, err := cfg.Load(ctx); err != nil { // before the lock makes the tier's folder
		return err
	}
	tier := persist.Tier(r.tier)
	release, err := a.lockTier(tier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	key, ring, err := a.unlockTier(ctx, cfg, r.keyFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	all, records, err := a.toRotate(ctx, tier)
	if err != nil {
		return err
	}
	plan := keys.Rotation{Images: all, Force: r.force, Progress: a.progress("exchanged")}
	if !ring.Rotating() {
		wipe, err := a.carrySlots(ctx, cfg, ring, r, &plan)
		defer wipe()
		if err != nil {
			return err
		}
	}
	done, err := ring.Rotate(ctx, key, plan)
	if err != nil {
		return err
	}
	done.Images = max(done.Images-records, 0) // people count images
	return a.printRotated(ring, cfg, done, plan.Drop)
}

func asKeyImages(images []*image) []keys.Image {
	out := make([]keys.Image, len(images))
	for i, im := range images {
		out[i] = im
	}
	return out
}

// carrySlots fills in what wraps the new key for each slot. The returned function wipes
// what a person typed, after the rotation.
func (a *app) carrySlots(ctx context.Context, cfg unlock.Config, ring *keys.Ring, r rotateFlags, plan *keys.Rotation) (wipe func(), err error) {
	var typed [][]byte
	wipe = func() {
		for _, text := range typed {
			clear(text)
		}
	}
	files := r.carry
	if r.recovery != "" && r.recovery != "-" {
		files = append(slices.Clone(files), r.recovery) // what unlocks may be carried too
	}
	for _, name := range files {
		text, err := readSecretFile(a.in, name)
		if err != nil {
			return wipe, err
		}
		typed = append(typed, text)
	}
	for _, name := range r.drop {
		slot, err := findSlot(ring, name)
		if err != nil {
			return wipe, err
		}
		plan.Drop = append(plan.Drop, slot.ID)
	}
	plan.Carry = map[string]keys.Provider{}
	for _, slot := range ring.Slots() {
		if slices.Contains(plan.Drop, slot.ID) {
			continue
		}
		p, err := a.carrySlot(ctx, cfg, ring, slot, typed)
		if err != nil {
			return wipe, fmt.Errorf("slot %s cannot be carried over (leave it behind with --drop %s): %w", slot.Title(), slot.ID, err)
		}
		plan.Carry[slot.ID] = p
	}
	return wipe, nil
}

// carrySlot finds what wraps another key as the slot's is. The slot must open now: one
// that does not would come to life again, at PCR values that nobody agreed to.
func (a *app) carrySlot(ctx context.Context, cfg unlock.Config, ring *keys.Ring, slot keys.Slot, typed [][]byte) (keys.Provider, error) {
	if slot.Provider != recovery.Name {
		p, err := cfg.Again(ctx, slot)
		if err != nil {
			return nil, err
		}
		return p, ring.Try(ctx, slot.ID, p)
	}
	for _, text := range typed {
		if ring.Try(ctx, slot.ID, recovery.Typed(text)) == nil {
			return recovery.Again(slot.Blob, text)
		}
	}
	return nil, fmt.Errorf("%w: give its key with --carry FILE", keys.ErrNeedsPerson)
}

// progress shows a count on a terminal, and nothing elsewhere.
func (a *app) progress(verb string) func(done, total int, name string) {
	if a.json || !isTerminal(a.err) {
		return nil
	}
	return func(done, total int, _ string) {
		_, _ = fmt.Fprintf(a.err, "\r%s %d of %d images", verb, done, total)
		if done == total {
			_, _ = fmt.Fprintln(a.err)
		}
	}
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
		return a.printf("there is no recovery slot: layervault key enroll recovery\n")
	}
	return nil
}

// finishRotation ends a rotation that a crash cut short, when the plugin starts. Images
// that resist are left for a person: the others must not wait for them.
func (a *app) finishRotation(ctx context.Context, tier persist.Tier, ring *keys.Ring, key *keys.TierKey, log *slog.Logger) (err error) {
	release, err := a.lockTier(tier)
	if err != nil {
		return fmt.Errorf("finish the rotation of the tier key: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	all, records, err := a.toRotate(ctx, tier)
	if err != nil {
		return fmt.Errorf("finish the rotation of the tier key: %w", err)
	}
	done, err := ring.Rotate(ctx, key, keys.Rotation{Images: all})
	if errors.Is(err, keys.ErrUnfinished) {
		log.ErrorContext(ctx, "the rotation of the tier key cannot be finished", "error", err, "hint", nextStep(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("finish the rotation of the tier key: %w", err)
	}
	log.InfoContext(ctx, "finished a rotation of the tier key that was cut short", "images", max(done.Images-records, 0))
	return nil
}
