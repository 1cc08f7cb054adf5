package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/keys"
	"layervault/keys/flags"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
	"layervault/vault"
)

// enrollFlags say what a new slot is to be.
type enrollFlags struct {
	keyFlags
	label string
	out   string // file for a generated recovery key
}

func newKeyEnrollCommand(a *app) *cobra.Command {
	var e enrollFlags
	cmd := &cobra.Command{
		Use:   "enroll " + strings.Join(flags.Names(), "|"),
		Short: "Add a key slot",
		Long: `Add a key slot. The tier must open, with another slot or with --recovery-key-file. In an
empty tier the slot becomes the first of a new key ring.

` + flags.About(),
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: flags.Names(),
		RunE:      func(cmd *cobra.Command, args []string) error { return a.enroll(cmd.Context(), args[0], e) },
	}
	f := cmd.Flags()
	e.registerSealing(f, a.env)
	e.registerUnlock(f, a.env)
	e.providers.Register(f, a.env, keys.ForEnroll)
	f.StringVar(&e.label, "label", "", "name of the slot")
	f.StringVar(&e.out, "recovery-key-out", "", "write the recovery key to this new file (mode 0600) instead of standard output")
	return cmd
}

func (a *app) enroll(ctx context.Context, provider string, e enrollFlags) (err error) {
	cfg, err := a.tierConfig(e.keyFlags)
	if err != nil {
		return err
	}
	if err := e.providers.Foreign(provider); err != nil {
		return &advice.UsageError{Err: err}
	}
	p, err := cfg.ForNewSlot(ctx, provider)
	if err != nil {
		return err
	}
	var secret []byte // what opens the slot, where that is a text
	defer func() { clear(secret) }()
	made := false
	if t, ok := p.(keys.Texted); ok {
		secret, made = t.Text()
	}
	if a.json && made && e.out == "" {
		return usagef("--json needs --recovery-key-out FILE: keys are not printed as JSON")
	}
	for _, f := range cfg.UnsteadyNew(provider) {
		if _, err := fmt.Fprintf(a.err, "warning: the slot may not open early in the next boot: %s; %s\n", f.Detail, f.Fix); err != nil {
			return err
		}
	}
	key, ring, slot, err := a.addSlot(ctx, cfg, e, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	if made {
		if err := a.handOver(secret, e.out); err != nil {
			// The key is lost: remove the slot again.
			return errors.Join(err, ring.Remove(ctx, key, slot.ID, true))
		}
	}
	view, err := cfg.Summary(ring, slot.ID)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(view)
	}
	_, err = fmt.Fprintf(a.err, "enrolled slot %s\n", vault.SlotLine(view))
	return err
}

// addSlot enrolls p in the ring, or makes a ring with it. The caller closes the key.
func (a *app) addSlot(ctx context.Context, cfg unlock.Config, e enrollFlags, p keys.Provider) (*keys.TierKey, *keys.Ring, keys.Slot, error) {
	key, ring, err := a.unlockTier(ctx, cfg, e.keyFlags)
	if errors.Is(err, keys.ErrNoRing) {
		ring, key, err = cfg.Create(ctx, p, e.label)
		if err != nil {
			return nil, nil, keys.Slot{}, err
		}
		return key, ring, ring.Slots()[0], nil
	}
	if err != nil {
		return nil, nil, keys.Slot{}, err
	}
	slot, err := ring.Enroll(ctx, key, p, e.label)
	if err != nil {
		return nil, nil, keys.Slot{}, errors.Join(err, key.Close())
	}
	return key, ring, slot, nil
}

// handOver prints a generated recovery key, once. Standard output has only the key, so that it
// can be piped to a printer; the explanation goes to standard error.
func (a *app) handOver(secret []byte, out string) error {
	line := append(append([]byte{}, secret...), '\n')
	defer clear(line)
	if out != "" {
		return secretio.Write(a.out, out, line)
	}
	if _, err := fmt.Fprintln(a.err, "This recovery key opens the vault when no other slot does. The key is not stored: print it or write it down now."); err != nil {
		return err
	}
	if _, err := a.out.Write(line); err != nil {
		return fmt.Errorf("write the recovery key: %w", err)
	}
	return nil
}
