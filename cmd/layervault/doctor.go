package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/crypt"
	"layervault/doctor"
	"layervault/driver"
	"layervault/engine"
	"layervault/persist"
	"layervault/plugin"
)

func newDoctorCommand(a *app) *cobra.Command {
	s := settingsOf(a.env)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check that this host has what layervault needs",
		Long: `Check that this host has what layervault needs, and print the command that fixes each
problem. Nothing is changed. Exit status 8 if something essential is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), s) },
	}
	s.making(cmd.Flags(), a.env)
	cmd.Flags().StringVar(&s.cipher, "cipher", s.cipher, "cipher of new images, as dm-crypt names it (env cipher)")
	s.sealed(cmd.Flags())
	return cmd
}

func (a *app) doctor(ctx context.Context, s settings) error {
	if err := s.check(); err != nil {
		return err
	}
	host := doctor.Host{
		Driver: driver.Name, Persist: a.persist, Cipher: s.cipher, Sector: s.sectorBytes, Verity: crypt.Verity(s.verity), Keys: a.keyConfig(s, nil), NextStep: advice.Step,
		Snapshotter: engine.Wanted{Snapshots: plugin.DefaultSnapshotSocket, Diffs: plugin.DefaultDiffSocket, Exports: a.layout().Tier(persist.Vault)},
	}
	findings, err := doctor.Run(ctx, host.Checks())
	if printErr := a.printFindings(findings); printErr != nil {
		return printErr
	}
	return err
}

func (a *app) printFindings(findings []doctor.Finding) error {
	if a.json {
		return a.printJSON(findings)
	}
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-8s %-13s %s\n", f.Verdict, f.Check, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(&b, "%-8s %-13s   -> %s\n", "", "", f.Fix)
		}
	}
	return a.printf("%s", b.String())
}
