package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/escrow"
	"layervault/keys/pemkey"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
)

func newKeyEscrowCommand(a *app) *cobra.Command {
	return group("escrow", "Export the tier key to an escrow holder, and import it back",
		newEscrowExportCommand(a), newEscrowOpenCommand(a), newEscrowImportCommand(a))
}

func newEscrowExportCommand(a *app) *cobra.Command {
	var k keyFlags
	var to string
	cmd := &cobra.Command{
		Use:   "export --to PUBKEY.pem FILE",
		Short: "Encrypt the tier key for a public key",
		Long: `Encrypt the tier key for a public key (EC P-256 or RSA) and write the result to a new FILE
for the escrow holder: only the private key decrypts it. The tier must open. Export again
after a rotation.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.escrowExport(cmd.Context(), k, to, args[0]) },
	}
	k.register(cmd.Flags(), a.env)
	k.registerUnlock(cmd.Flags(), a.env)
	cmd.Flags().StringVar(&to, "to", "", "public key of the escrow holder, a PEM file")
	return cmd
}

func (a *app) escrowExport(ctx context.Context, k keyFlags, to, name string) error {
	if to == "" {
		return usagef("--to is missing: the public key of the escrow holder")
	}
	text, err := secretio.ReadFile(nil, to, secretio.MaxPEM)
	if err != nil {
		return err
	}
	public, err := pemkey.Public(text)
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	var parcel *escrow.Parcel
	err = a.withKey(ctx, k, func(_ unlock.Config, key *keys.TierKey, ring *keys.Ring) (err error) {
		parcel, err = escrow.Wrap(ring, key, public)
		return err
	})
	if err != nil {
		return err
	}
	data, err := parcel.Encode()
	if err != nil {
		return err
	}
	if err := secretio.Write(a.out, name, data); err != nil || name == "-" {
		return err
	}
	return a.result(map[string]string{"file": name, "ring": parcel.Ring, "key_sha256": parcel.KeySHA256, "to": parcel.To}, "encrypted the key (SHA-256 %s) for %s in %s\n", parcel.KeySHA256, parcel.To, name)
}

func newEscrowOpenCommand(a *app) *cobra.Command {
	var private, out string
	cmd := &cobra.Command{
		Use:   "open --key PRIVKEY.pem --out FILE PARCEL",
		Short: "Decrypt an exported tier key (run by the escrow holder)",
		Long: `Decrypt the tier key in PARCEL, the file that export wrote, for key escrow import on the
device. Needs the private key and no vault. The result is the unencrypted key: send it
over a trusted channel, then delete it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.escrowOpen(private, args[0], out) },
	}
	cmd.Flags().StringVar(&private, "key", "", "private key of the escrow holder, a PEM file")
	cmd.Flags().StringVar(&out, "out", "-", "new file (mode 0600), or - for standard output, which must not be a terminal")
	return cmd
}

func (a *app) escrowOpen(private, name, out string) error {
	switch {
	case private == "":
		return usagef("--key is missing: the private key of the escrow holder")
	case out == "-" && secretio.IsTerminal(a.out):
		return usagef("standard output is a terminal: pipe the key, or use --out FILE")
	}
	data, err := secretio.ReadFile(a.in, name, secretio.MaxPEM)
	if err != nil {
		return err
	}
	parcel, err := escrow.ParseParcel(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	text, err := secretio.ReadPrivatePEM(private)
	if err != nil {
		return err
	}
	defer clear(text)
	signer, err := pemkey.Private(text)
	if err != nil {
		return fmt.Errorf("%s: %w", private, err)
	}
	back, err := parcel.Open(signer)
	if err != nil {
		return err
	}
	defer clear(back.Key)
	secret, err := back.Encode()
	if err != nil {
		return err
	}
	defer clear(secret)
	if err := secretio.Write(a.out, out, secret); err != nil || out == "-" {
		return err
	}
	return a.result(map[string]string{"file": out, "ring": parcel.Ring, "key_sha256": parcel.KeySHA256}, "decrypted the key of ring %s into %s\n", parcel.Ring, out)
}

func newEscrowImportCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Unlock with a key from escrow, and reseal the TPM slots to the current PCRs",
		Long: `Unlock with a key from the escrow holder (FILE written by key escrow open, - for standard
input; only its owner may have access), and reseal each TPM slot that no longer opens, as
key recover does. The key must have the SHA-256 of the export and belong to this tier.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.escrowImport(cmd.Context(), k, args[0]) },
	}
	k.registerSealing(cmd.Flags(), a.env)
	k.providers.Register(cmd.Flags(), a.env, keys.ForPerson)
	return cmd
}

func (a *app) escrowImport(ctx context.Context, k keyFlags, name string) (err error) {
	cfg, ring, err := a.loadRing(ctx, k)
	if err != nil {
		return err
	}
	data, err := secretio.Read(a.in, name)
	if err != nil {
		return err
	}
	defer clear(data)
	key, err := escrow.Unlock(ring, data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	return a.mendSlots(ctx, cfg, ring, key)
}
