package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/area"
	"layervault/persist"
	"layervault/vault"
)

// persistVerb is what the persist verbs share.
type persistVerb struct {
	app    *app
	set    settings
	dryRun bool
}

func newPersistCommand(a *app) *cobra.Command {
	verb := func(of func(*persistVerb) *cobra.Command) *cobra.Command {
		return of(&persistVerb{app: a, set: settingsOf(a.env)})
	}
	cmd := group("persist", "Manage the layout: tiers, directories and areas",
		verb((*persistVerb).init), verb((*persistVerb).status), verb((*persistVerb).open), verb((*persistVerb).close),
		verb((*persistVerb).du), verb((*persistVerb).gc), newPersistUpgradeCommand(a),
	)
	cmd.Long = `Manage the layout of /persist: its tiers, its directories, and the areas downloader, verifier
and case, which lie on encrypted images of their own ("layervault help persist").`
	// The same setting under the name that the older tools have for it.
	cmd.PersistentFlags().StringVar(&a.persist, "root", a.persist, "folder of the layout; the same as --persist")
	return cmd
}

// dry adds -n.
func (p *persistVerb) dry(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&p.dryRun, "dry-run", "n", false, "show what would be done; change nothing")
}

// with calls f with the vault. No tier is opened before f needs it.
func (p *persistVerb) with(f func(*vault.Vault) error) (err error) {
	if err := errors.Join(p.set.check(), p.app.areas.check()); err != nil {
		return err
	}
	v := p.app.newVault(p.set, volumeSettings{}, nil, p.app.ringLog())
	defer func() { err = errors.Join(err, v.Close()) }()
	return f(v)
}

// initResult is the result of persist init --json.
type initResult struct {
	DryRun      bool              `json:"dry_run"`
	Directories []vault.DirChange `json:"directories"`
	Tiers       []string          `json:"tiers"` // that were made
	Areas       []string          `json:"areas"` // that were made
}

func (p *persistVerb) init() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make what the layout lacks: directories, key rings, areas",
		Long: `Make what the layout lacks: directories with their owners and modes, the key rings of the
sealed tiers, and the areas. What is there stays, but for wrong owners and modes. Nothing is
made in the place of an image or a key ring that cannot be opened.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(v *vault.Vault) error {
				r, err := p.make(cmd.Context(), v)
				return errors.Join(err, p.printInit(r))
			})
		},
	}
	p.set.making(cmd.Flags(), p.app.env)
	p.set.rescuing(cmd.Flags())
	p.set.images(cmd.Flags())
	p.app.areas.register(cmd.Flags())
	p.app.areas.making(cmd.Flags())
	p.dry(cmd)
	return cmd
}

// make makes what is missing.
func (p *persistVerb) make(ctx context.Context, v *vault.Vault) (r initResult, err error) {
	l := p.app.layout()
	r = initResult{DryRun: p.dryRun, Tiers: []string{}, Areas: []string{}}
	dirs, err := vault.MakeDirs(l, p.dryRun)
	r.Directories = append([]vault.DirChange{}, dirs...)
	if err != nil {
		return r, err
	}
	for _, tier := range vault.SealedTiers {
		absent := !v.HasRing(tier)
		if absent {
			r.Tiers = append(r.Tiers, string(tier))
		}
		if p.dryRun {
			continue
		}
		if _, err := v.Tier(ctx, tier); err != nil {
			return r, fmt.Errorf("unlock %s: %w", tier, err)
		}
	}
	set := v.Areas()
	for _, a := range persist.Areas {
		made := false
		if p.dryRun {
			made = set.State(a).State == area.StateAbsent
		} else if made, err = set.Create(ctx, a); err != nil {
			return r, err
		}
		if made {
			r.Areas = append(r.Areas, string(a))
		}
	}
	return r, nil
}

func (p *persistVerb) printInit(r initResult) error {
	if p.app.json {
		return p.app.printJSON(r)
	}
	var b strings.Builder
	for _, d := range r.Directories {
		fmt.Fprintf(&b, "directory %s: %s\n", d.Path, d.What)
	}
	for _, t := range r.Tiers {
		fmt.Fprintf(&b, "key ring of %s: made\n", t)
	}
	for _, a := range r.Areas {
		fmt.Fprintf(&b, "area %s: made\n", a)
	}
	if b.Len() == 0 {
		b.WriteString("nothing is missing\n")
	}
	if r.DryRun {
		b.WriteString("dry run: nothing was changed\n")
	}
	return p.app.printf("%s", b.String())
}
