package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/doctor"
	"layervault/vault"
)

// status is the answer of layervault status --json.
type status struct {
	vault.Status
	Space doctor.Space `json:"space"`
}

func newStatusCommand(a *app) *cobra.Command {
	s := settingsOf(a.env)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the vault, its key slots, the layers, the volumes and the space",
		Long: `Show the vault, its key slots, the layers, the volumes and the space.

It asks the disk and the kernel, not the plugin: it works beside a running plugin,
without one, and while the vault is locked. A locked vault is exit status 3.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.checkKey(); err != nil {
				return err
			}
			st, err := a.readStatus(cmd.Context(), s)
			if printErr := a.printStatus(st); printErr != nil {
				return printErr
			}
			return err
		},
	}
	s.opening(cmd.Flags(), a.env)
	return cmd
}

// readStatus collects what can be found out. Its error is why the vault does not
// open; a vault that does not exist yet is none.
func (a *app) readStatus(ctx context.Context, s settings) (st status, err error) {
	var vaultErr, spaceErr error
	st.Status, vaultErr = a.newVault(s, volumeSettings{}, nil, nil).ReadStatus(ctx, advice.Step)
	st.Space, spaceErr = doctor.ReadSpace(a.persist)
	return st, errors.Join(vaultErr, spaceErr)
}

func (a *app) printStatus(st status) error {
	if a.json {
		return a.printJSON(st)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Vault", "%s", st.Vault.State)
	if st.Vault.Reason != "" {
		line("  why", "%s", st.Vault.Reason)
	}
	for _, slot := range st.Vault.Slots {
		text := vault.SlotLine(slot) + ": " + string(slot.State)
		if slot.Reason != "" {
			text += ": " + slot.Reason
		}
		line("  key slot", "%s", text)
	}
	if st.Vault.State == vault.StateOpen { // only then is it to be believed
		line("  key ring", "%s", vault.AnchorLine(st.Vault.Anchored))
	}
	for _, t := range st.Tiers {
		line("Tier", "%-15s %-8s %s", t.Name, t.State, t.Path)
	}
	line("Format", "%s", st.Formats.String())
	ciphers := make([]string, 0, len(st.Layers.Ciphers))
	for c, n := range st.Layers.Ciphers {
		ciphers = append(ciphers, fmt.Sprintf("%s (%d images)", c, n))
	}
	slices.Sort(ciphers)
	line("Cipher", "%s", orDash(strings.Join(ciphers, ", ")))
	line("Layers", "%d sealed, %d writable, %d fresh, %d damaged, %s on disk",
		st.Layers.Sealed, st.Layers.Writable, st.Layers.Fresh, st.Layers.Damaged, size(st.Layers.Disk))
	for _, name := range st.Layers.Changed {
		line("Changed", "%s: a block on the disk is not what it was; layervault layer verify %[1]s", short(name))
	}
	line("Volumes", "%d encrypted, %d clear, %d on disks, %d superseded, %d damaged",
		st.Volumes.Encrypted, st.Volumes.Clear, st.Volumes.OnDisks, st.Volumes.Superseded, st.Volumes.Damaged)
	line("Mounted", "%d layers here, %d images open in the kernel", st.Layers.Mounted, st.Kernel.OpenImages)
	line("Space", "%s free of %s (%s)", size(st.Space.Free), size(st.Space.Total), orDash(st.Space.Filesystem))
	return a.printf("%s", b.String())
}
