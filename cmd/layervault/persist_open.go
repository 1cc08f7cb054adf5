package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"layervault/area"
	"layervault/persist"
	"layervault/vault"
)

// areaResult is the result of one area in persist open, close and gc --json.
type areaResult struct {
	Area   string `json:"area"`
	State  string `json:"state"`
	Before int64  `json:"before_bytes,omitempty"` // on the disk
	After  int64  `json:"after_bytes,omitempty"`
	Error  string `json:"error,omitempty"`
}

// each calls f for the areas, all of them or those that a person named. An error of one area does
// not stop the others.
func (p *persistVerb) each(names []string, set *area.Set, f func(a persist.Area, r *areaResult) error) error {
	var errs []error
	results := []areaResult{}
	for _, a := range persist.Areas {
		if len(names) > 0 && !slices.Contains(names, string(a)) {
			continue
		}
		r := areaResult{Area: string(a)}
		err := f(a, &r)
		if err != nil {
			r.Error = err.Error()
		}
		r.State = set.State(a).State
		errs, results = append(errs, err), append(results, r)
	}
	return errors.Join(append(errs, p.printAreas(results))...)
}

func (p *persistVerb) printAreas(results []areaResult) error {
	if p.app.json {
		return p.app.printJSON(results)
	}
	for _, r := range results {
		text := r.State
		if r.Before > 0 {
			text += fmt.Sprintf(", %s on the disk, %s before", size(r.After), size(r.Before))
		}
		if err := p.app.printf("%-11s %s\n", r.Area, text); err != nil {
			return err
		}
	}
	return nil
}

// areaArgs wants names of areas.
func areaArgs(_ *cobra.Command, args []string) error {
	for _, name := range args {
		if !persist.IsArea(name) {
			return fmt.Errorf("unknown area %q: must be downloader, verifier or case", name)
		}
	}
	return nil
}

func (p *persistVerb) open() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "open [AREA...]",
		Short: "Unlock the vault and mount its areas",
		Long: `Unlock the vault and mount its areas. No process has to keep running for the mounts to stay.
A vault that does not open is exit status 3: its areas stay closed, and nothing can be written
in their place.`,
		Args: areaArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(v *vault.Vault) error {
				ctx, set := cmd.Context(), v.Areas()
				if p.dryRun {
					return p.each(args, set, func(persist.Area, *areaResult) error { return nil })
				}
				if err := set.Sweep(ctx); err != nil {
					p.app.ringLog().Warn("cannot remove what an earlier run left", "error", err)
				}
				if err := p.openVault(ctx, v); err != nil {
					return err
				}
				return p.each(args, set, func(a persist.Area, _ *areaResult) error { return set.Open(ctx, a) })
			})
		},
	}
	p.set.opening(cmd.Flags(), p.app.env)
	p.set.rescuing(cmd.Flags())
	p.app.areas.register(cmd.Flags())
	p.dry(cmd)
	return cmd
}

// openVault unlocks the vault, which must be there. It is said before anything is mounted or
// converted.
func (p *persistVerb) openVault(ctx context.Context, v *vault.Vault) error {
	if !v.HasRing(persist.Vault) {
		return fmt.Errorf("open %s: %w", p.app.layout().Tier(persist.Vault), vault.ErrNoLayout)
	}
	if _, err := v.Tier(ctx, persist.Vault); err != nil {
		return fmt.Errorf("unlock %s: %w", persist.Vault, err)
	}
	if p.app.json {
		return nil
	}
	return p.app.printf("vault unlocked\n")
}

func (p *persistVerb) close() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "close [AREA...]",
		Short: "Unmount the areas",
		Args:  areaArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(v *vault.Vault) error {
				set := v.Areas()
				return p.each(args, set, func(a persist.Area, _ *areaResult) error {
					if p.dryRun || set.State(a).State == area.StateAbsent {
						return nil
					}
					return set.Close(cmd.Context(), a)
				})
			})
		},
	}
	p.dry(cmd)
	return cmd
}

func (p *persistVerb) gc() *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove leftovers, give room back, and limit the areas to it",
		Long: `Remove what interrupted commands left, give the room of deleted files back to the disk, and
limit the areas to what the disk has above its floor. With --watch the limit is set again every
ten seconds until the command is stopped, and room is given back once a day.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(v *vault.Vault) error {
				ctx, set := cmd.Context(), v.Areas()
				if p.dryRun {
					return p.each(nil, set, func(persist.Area, *areaResult) error { return nil })
				}
				if err := set.Sweep(ctx); err != nil {
					return err
				}
				if watch {
					return set.Watch(ctx)
				}
				return p.each(nil, set, func(a persist.Area, r *areaResult) (err error) {
					if set.State(a).State == area.StateAbsent {
						return nil
					}
					r.Before, r.After, err = set.Trim(ctx, a)
					if errors.Is(err, area.ErrClosed) {
						return nil
					}
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "keep the limits up to date until stopped")
	p.app.areas.register(cmd.Flags())
	p.dry(cmd)
	return cmd
}
