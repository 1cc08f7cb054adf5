package main

import (
	"context"

	"github.com/spf13/cobra"

	"layervault/keys/secretio"
	"layervault/volume"
)

func (v *volumeVerb) mount() *cobra.Command {
	return &cobra.Command{
		Use:   "mount VOLUME PATH",
		Short: "Mount a volume on the host",
		Long: `Mount a volume on the host, for example before docker starts: docker's data-root can be on
a volume (layervault-volume@.service mounts it at boot). No process has to keep running for
the mount to stay.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				if err := s.MountAt(cmd.Context(), args[0], args[1]); err != nil {
					return err
				}
				return v.app.result(map[string]string{"name": args[0], "path": args[1]}, "%s is mounted at %s\n", args[0], args[1])
			})
		},
	}
}

func (v *volumeVerb) umount() *cobra.Command {
	return &cobra.Command{
		Use:   "umount VOLUME [PATH]",
		Short: "Unmount a volume from the host, at PATH or everywhere",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at := ""
			if len(args) == 2 {
				at = args[1]
			}
			return v.with(cmd.Context(), func(s *volume.Store) error { return s.UnmountHost(cmd.Context(), args[0], at) })
		},
	}
}

func (v *volumeVerb) key() *cobra.Command {
	return v.app.passphraseVerb("key VOLUME", "Write the LUKS2 passphrase of a volume's image, for stock cryptsetup",
		func(ctx context.Context, name string, write func([]byte, error) error) error {
			return v.with(ctx, func(s *volume.Store) error { return write(s.Passphrase(ctx, name)) })
		})
}

// passphraseVerb writes the passphrase of one image. with opens what knows the passphrase, and
// hands the passphrase, or why there is none, to write.
func (a *app) passphraseVerb(use, short string, with func(ctx context.Context, name string, write func([]byte, error) error) error) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.noKeyOnTerminal(out); err != nil {
				return err
			}
			return with(cmd.Context(), args[0], func(pass []byte, err error) error {
				if err != nil {
					return err
				}
				defer clear(pass)
				return secretio.Write(a.out, out, pass)
			})
		},
	}
	keyFileOut(cmd, &out)
	return cmd
}
