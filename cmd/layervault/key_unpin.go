package main

import (
	"github.com/spf13/cobra"

	"layervault/persist"
)

func newKeyUnpinCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "unpin",
		Short: "Have the TPM forget the key ring of a tier, to begin anew with another",
		Long: `Have the TPM forget the newest write of a tier's key ring. A new ring is refused while
the TPM remembers another: its disk may just not be mounted. Give the old one up with this.

A ring that is there, and that the TPM remembered, is locked by this until key recover.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.tierConfig(k)
			if err != nil {
				return err
			}
			removed, err := cfg.Unpin(cmd.Context())
			if err != nil {
				return err
			}
			return a.result(map[string]int{"removed": removed}, "the TPM forgot %d places of %s\n", removed, persist.Tier(k.tier))
		},
	}
	k.register(cmd.Flags(), a.env)
	return cmd
}
