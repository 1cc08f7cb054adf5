package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"layervault/internal/secretio"
	"layervault/keys"
	"layervault/keys/agent"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/trusted"
	"layervault/keys/unlock"
	"layervault/keys/versatile"
	"layervault/vault"
)

// enrollFlags say what a new slot is to be.
type enrollFlags struct {
	keyFlags
	label      string
	pcrs       string
	signedBy   string // PEM file of who may approve other PCR values
	newPIN     string // file, "ask" for the terminal
	passphrase string // file, "ask" for the terminal
	out        string // file for a generated recovery key
}

// ask is the value of --pin and --passphrase given without a file.
const ask = "ask"

func newKeyEnrollCommand(a *app) *cobra.Command {
	var e enrollFlags
	cmd := &cobra.Command{
		Use:   "enroll tpm|trusted|versatile|agent|recovery",
		Short: "Add a key slot",
		Long: `Add a key slot. The tier must open, by another slot or with --recovery-key-file; in an
empty tier the new slot becomes the first of a new key ring.

  tpm        sealed by the TPM under PCRs (--pcrs), with --pin also under a PIN
  trusted    a trusted key of the kernel (--source): i.MX CAAM and DCP, a TEE, a TPM
  versatile  a key file; protects nothing on a stolen disk that holds the file too
  agent      a key service (--agent) unwraps the key; the plugin needs the setting agent= too
  recovery   a generated key to print and keep elsewhere; it is shown this once only.
             With --passphrase, a passphrase of your own (argon2id).

Key services:
  ` + agent.Help + `

Sources of trusted keys:
  ` + trusted.Help,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{tpm.Name, trusted.Name, versatile.Name, agent.Name, recovery.Name},
		RunE:      func(cmd *cobra.Command, args []string) error { return a.enroll(cmd.Context(), args[0], e) },
	}
	f := cmd.Flags()
	e.register(f, a.env)
	e.registerUnlock(f, a.env)
	f.StringVar(&e.label, "label", "", "a name for the slot")
	f.StringVar(&e.pcrs, "pcrs", envOr(a.env, "pcrs", tpm.DefaultPCRs), "PCRs of a tpm slot: 0-4,6-9,12-14, sha384:7, none (env pcrs)")
	f.StringVar(&e.signedBy, "signed-by", "", "a tpm slot opens also at PCR values that this public key (PEM file) signed; see key sign-policy")
	f.StringVar(&e.newPIN, "pin", "", "a tpm slot wants a PIN, asked for or (--pin=FILE) read from a file")
	f.Lookup("pin").NoOptDefVal = ask
	f.StringVar(&e.passphrase, "passphrase", "", "a recovery slot opens with your own passphrase, asked for or (--passphrase=FILE) read from a file")
	f.Lookup("passphrase").NoOptDefVal = ask
	f.StringVar(&e.out, "recovery-key-out", "", "write the recovery key to this new file (mode 0600) and not to standard output")
	return cmd
}

func (a *app) enroll(ctx context.Context, kind string, e enrollFlags) (err error) {
	generates := kind == recovery.Name && e.passphrase == ""
	if a.json && generates && e.out == "" {
		return usagef("with --json the recovery key needs --recovery-key-out FILE: no key is printed as JSON")
	}
	cfg, err := a.tierConfig(e.keyFlags)
	if err != nil {
		return err
	}
	cfg.PCRs = e.pcrs
	if e.signedBy != "" && kind != tpm.Name {
		return usagef("--signed-by is for tpm slots")
	}
	if cfg.SignedBy, err = readPublicPEM(e.signedBy); err != nil {
		return err
	}
	if e.newPIN != "" {
		cfg.NewPIN = func(ctx context.Context) ([]byte, error) { return a.newSecret(ctx, e.newPIN, "new PIN") }
	}
	var p keys.Provider
	var secret []byte // what opens a recovery slot
	defer func() { clear(secret) }()
	switch {
	case generates:
		secret = recovery.Generate()
		p = recovery.New(recovery.KindKey, secret)
	case kind == recovery.Name:
		if secret, err = a.newSecret(ctx, e.passphrase, "new recovery passphrase"); err != nil {
			return err
		}
		p = recovery.New(recovery.KindPassphrase, secret)
	default:
		if p, err = cfg.ForNewSlot(kind); err != nil {
			return err
		}
		if err := a.warnOfUnsteady(kind, e); err != nil {
			return err
		}
	}
	key, ring, slot, err := a.addSlot(ctx, cfg, e, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	if generates {
		if err := a.handOver(secret, e.out); err != nil {
			// Nobody has the key: take the slot back.
			return errors.Join(err, ring.Remove(ctx, key, slot.ID, true))
		}
	}
	view, err := slotView(ring, cfg, slot.ID)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(view)
	}
	_, err = fmt.Fprintf(a.err, "enrolled slot %s\n", vault.SlotLine(view))
	return err
}

// warnOfUnsteady tells of PCRs that would keep a new slot from opening at the next boot.
func (a *app) warnOfUnsteady(kind string, e enrollFlags) error {
	if kind != tpm.Name || e.signedBy != "" {
		return nil
	}
	sel, err := tpm.ParsePCRs(e.pcrs)
	if err != nil {
		return &usageError{err}
	}
	for _, why := range tpm.Unsteady(sel) {
		if _, err := fmt.Fprintf(a.err, "warning: the slot may not open early in the next boot: %s; leave that PCR out with --pcrs, or sign policies (--signed-by)\n", why); err != nil {
			return err
		}
	}
	return nil
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

// newSecret gives a secret that a person chooses.
func (a *app) newSecret(ctx context.Context, source, question string) ([]byte, error) {
	if source == ask {
		return secretio.AskTwice(ctx, a.in, a.err, question)
	}
	return secretio.Read(a.in, source)
}

// handOver shows a generated recovery key, once: on standard output, alone, so that
// it can be piped to a printer; the words about it go to standard error.
func (a *app) handOver(secret []byte, out string) error {
	line := append(append([]byte{}, secret...), '\n')
	defer clear(line)
	if out != "" {
		return secretio.Write(a.out, out, line)
	}
	if _, err := fmt.Fprintln(a.err, "This recovery key opens the vault when nothing else does. It is not stored: print it or write it down now."); err != nil {
		return err
	}
	if _, err := a.out.Write(line); err != nil {
		return fmt.Errorf("write the recovery key: %w", err)
	}
	return nil
}

// readPublicPEM reads the public key of a policy's signer; nil without a name.
func readPublicPEM(name string) (crypto.PublicKey, error) {
	if name == "" {
		return nil, nil
	}
	text, err := secretio.ReadFile(nil, name, secretio.MaxPEM)
	if err != nil {
		return nil, err
	}
	key, err := tpm.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}
