package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/area"
	"layervault/vault"
)

func (p *persistVerb) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show each tier: provider, locked or open, why, and whether it is converted",
		Long: `Show each tier: its provider, whether it is locked or open, why, how it was unlocked, and
whether an older layout is converted. Ready is open and converted. It asks the disk and the
kernel, and works while the vault is locked. A locked vault is exit status 3.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(v *vault.Vault) error {
				st, err := v.ReadLayout(cmd.Context())
				if printErr := p.printStatus(st); printErr != nil {
					return printErr
				}
				return err
			})
		},
	}
	p.set.opening(cmd.Flags(), p.app.env)
	p.app.areas.register(cmd.Flags())
	return cmd
}

func (p *persistVerb) printStatus(st vault.LayoutStatus) error {
	if p.app.json {
		return p.app.printJSON(st)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	for _, t := range st.Tiers {
		line("Tier", "%-15s %-8s %s", t.Name, t.State, t.Path)
		if t.Provider != "" {
			line("  opened by", "%s (%s)", t.Provider, t.Method)
		}
		if t.Reason != "" {
			line("  why", "%s", t.Reason)
		}
		for _, a := range t.Areas {
			text := fmt.Sprintf("%-11s %-8s %s on the disk", a.Area, a.State, size(a.Disk))
			if a.State == area.StateOpen {
				text += fmt.Sprintf(", %s used, room for %s", size(a.Used), size(a.Free))
			}
			line("  area", "%s", text)
			if a.Reason != "" {
				line("    why", "%s", a.Reason)
			}
		}
	}
	line("Unlocked", "%s", yesNo(st.Unlocked))
	line("Converted", "%s", st.Conversion)
	line("Ready", "%s", yesNo(st.Ready))
	if st.Maintenance {
		line("Maintenance", "yes: the vault, or an area of it, does not open")
	}
	line("Space", "%s free of %s, of which the areas leave %s", size(st.Room.Free), size(st.Room.Total), size(st.Room.Floor))
	for _, w := range st.Wrong {
		line("Wrong", "%s; layervault persist init", w)
	}
	return p.app.printf("%s", b.String())
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func (p *persistVerb) du() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show what each directory of the layout takes on the disk",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(v *vault.Vault) error {
				usage, err := v.LayoutUsage(cmd.Context())
				if err != nil {
					return err
				}
				return p.printUsage(usage)
			})
		},
	}
	p.app.areas.register(cmd.Flags())
	return cmd
}

func (p *persistVerb) printUsage(u vault.LayoutUsage) error {
	if p.app.json {
		return p.app.printJSON(u)
	}
	var rows [][]string
	for _, d := range u.Directories {
		used := "-"
		if d.Used > 0 {
			used = size(d.Used)
		}
		rows = append(rows, []string{d.Path, size(d.Disk), used, d.For})
	}
	if err := p.app.table([]string{"DIRECTORY", "DISK", "USED", "FOR"}, rows); err != nil {
		return err
	}
	return p.app.printf("%s free of %s, of which the areas leave %s\n", size(u.Room.Free), size(u.Room.Total), size(u.Room.Floor))
}
