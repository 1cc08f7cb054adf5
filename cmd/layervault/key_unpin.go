package main

import (
	"github.com/spf13/cobra"

	"layervault/persist"
)

func newKeyUnpinCommand(a *app) *cobra.Command {
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "unpin",
		Short: "Remove the TPM's record of a tier's key ring, to use another ring",
		Long: `Remove the TPM's record of the newest write of a tier's key ring. While the TPM has a
record of another ring, a new ring is refused: the disk with the other ring may just not be
mounted. Use this to give up the other ring.

An existing ring that the TPM has a record of is then locked until key recover.`,
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
			return a.result(map[string]int{"removed": removed}, "removed %d TPM records of %s\n", removed, persist.Tier(k.tier))
		},
	}
	k.register(cmd.Flags(), a.env)
	return cmd
}
