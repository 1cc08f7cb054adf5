package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"layervault/volume"
)

func newRevisionCommand(a *app) *cobra.Command {
	return group("revision", "Set the revision that this host runs: volumes with persistence=revision follow it",
		a.verb((*volumeVerb).setRevision, makesVault), a.verb((*volumeVerb).listRevisions, 0), a.verb((*volumeVerb).gcRevisions, readsPlaces|readsKeys))
}

func (v *volumeVerb) setRevision() *cobra.Command {
	return &cobra.Command{
		Use:   "set REVISION",
		Short: "Set the revision that this host runs",
		Long: `Set the revision that this host runs. Existing mounts stay; the next mount of a volume
with persistence=revision has the content of this revision.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				if err := s.SetRevision(cmd.Context(), args[0]); err != nil {
					return err
				}
				return v.app.result(map[string]string{"current": args[0]}, "this host runs %s\n", args[0])
			})
		},
	}
}

func (v *volumeVerb) listRevisions() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the revisions that this host ran",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				r, err := s.Revisions()
				if err != nil {
					return err
				}
				if v.app.json {
					return v.app.printJSON(r)
				}
				cells := make([][]string, 0, len(r.Known))
				for _, k := range r.Known {
					mark := "-"
					if k.Name == r.Current {
						mark = "current"
					}
					cells = append(cells, []string{k.Name, mark, k.Set.Format(time.RFC3339)})
				}
				return v.app.table([]string{"REVISION", "STATE", "SET"}, cells)
			})
		},
	}
}

func (v *volumeVerb) gcRevisions() *cobra.Command {
	var keep []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove the content of revisions that are no longer needed",
		Long: `Remove the content of revisions from every volume with persistence=revision, on disks
too. Kept are the current revision, those given with --keep, those that a volume is bound
to, and mounted ones.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				done, err := s.GCRevisions(cmd.Context(), keep, dry)
				if err != nil {
					return err
				}
				return v.printRevisionGC(done, dry)
			})
		},
	}
	cmd.Flags().StringArrayVar(&keep, "keep", nil, "revision to keep (repeatable)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only print what would be removed")
	return cmd
}

func (v *volumeVerb) printRevisionGC(done volume.RevisionGC, dry bool) error {
	var errs []error
	failed := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(done.Failed)) {
		failed[name] = done.Failed[name].Error()
		errs = append(errs, fmt.Errorf("revisions of volume %s stay: %w", name, done.Failed[name]))
	}
	if v.app.json {
		return errors.Join(append(errs, v.app.printJSON(map[string]any{"removed": done.Removed, "kept": done.Kept, "failed": failed}))...)
	}
	word := "removed"
	if dry {
		word = "would remove"
	}
	for _, name := range slices.Sorted(maps.Keys(done.Removed)) {
		errs = append(errs, v.app.printf("%s from %s: %s\n", word, name, strings.Join(done.Removed[name], ", ")))
	}
	return errors.Join(append(errs, v.app.printf("kept: %s\n", strings.Join(done.Kept, ", ")))...)
}
