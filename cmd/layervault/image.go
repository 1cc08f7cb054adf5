package main

import (
	"context"

	"github.com/spf13/cobra"

	"layervault/keys/secretio"
	"layervault/vault"
)

func newImageCommand(a *app) *cobra.Command {
	return group("image", "Manage the encrypted images of layers", newImageListCommand(a), newImageKeyCommand(a), newImageAdoptCommand(a))
}

func newImageListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the layers with their LUKS2 images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := vault.ReadLayers(cmd.Context(), a.layout())
			if printErr := a.printImages(rows); printErr != nil {
				return printErr
			}
			return err
		},
	}
}

func (a *app) printImages(rows []vault.LayerRow) error {
	if a.json {
		return a.printJSON(rows)
	}
	cells := make([][]string, 0, len(rows))
	for _, r := range rows {
		uuid, cipher := orDash(r.UUID), orDash(r.Cipher)
		if r.Error != "" {
			uuid, cipher = "unreadable", r.Error
		}
		cells = append(cells, []string{short(r.Layer), string(r.Kind), uuid, cipher, size(r.Disk), orDash(short(r.Parent))})
	}
	return a.table([]string{"LAYER", "KIND", "LUKS UUID", "CIPHER", "DISK", "PARENT"}, cells)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newImageKeyCommand(a *app) *cobra.Command {
	s := settingsOf(a.env)
	var out string
	cmd := &cobra.Command{
		Use:   "key LAYER",
		Short: "Write the LUKS2 passphrase of one image, for stock cryptsetup",
		Long: `Write the LUKS2 passphrase of one image to a pipe or a file, for stock cryptsetup.

LAYER is a layer ID, the start of one, or the path of the image. For example:

  layervault image key 3f2a | cryptsetup open --readonly --key-file - \
      /persist/vault/layers/3f2a.../image.luks rescue`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.imageKey(cmd.Context(), s, args[0], out) },
	}
	keyFileOut(cmd, &out)
	s.opening(cmd.Flags(), a.env)
	s.rescuing(cmd.Flags())
	return cmd
}

// keyFileOut is the flag of the verbs that write an image's passphrase.
func keyFileOut(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVar(out, "key-file-out", "-", "new file (mode 0600), or - for standard output, which must not be a terminal")
}

// noKeyOnTerminal refuses to show a passphrase on a screen.
func (a *app) noKeyOnTerminal(out string) error {
	if out == "-" && secretio.IsTerminal(a.out) {
		return usagef("standard output is a terminal: pipe the key to cryptsetup, or use --key-file-out FILE")
	}
	return nil
}

func (a *app) imageKey(ctx context.Context, s settings, name, out string) (err error) {
	if err := a.noKeyOnTerminal(out); err != nil {
		return err
	}
	cfg := a.keyConfig(s, nil)
	if cfg.Recovery, err = a.typedKey(s.recovery); err != nil {
		return err
	}
	defer clear(cfg.Recovery)
	pass, err := vault.LayerPassphrase(ctx, a.layout(), cfg, name)
	if err != nil {
		return err
	}
	defer clear(pass)
	return secretio.Write(a.out, out, pass)
}
