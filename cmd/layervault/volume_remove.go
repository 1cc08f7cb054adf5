package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"layervault/volume"
)

func (v *volumeVerb) remove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove VOLUME...",
		Short: "Destroy volumes: their keys, then their images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				var errs []error
				for _, name := range args {
					err := s.Remove(cmd.Context(), name)
					if err == nil {
						err = v.app.result(map[string]string{"removed": name}, "removed %s\n", name)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
}

func (v *volumeVerb) gc() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove superseded generations and leftovers of crashes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				done, err := s.GC(cmd.Context(), dry)
				if err != nil {
					return err
				}
				return v.printCollected(done, dry)
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only print what would be removed")
	return cmd
}

func (v *volumeVerb) printCollected(done []volume.Collected, dry bool) error {
	type row struct {
		Name  string `json:"name"`
		ID    string `json:"id"`
		Error string `json:"error,omitempty"`
	}
	rows := []row{}
	var errs []error
	for _, c := range done {
		r := row{Name: c.Volume.Name, ID: c.Volume.ID().String()}
		if c.Err != nil {
			r.Error = c.Err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", r.ID, c.Err))
		}
		rows = append(rows, r)
	}
	if v.app.json {
		return errors.Join(append(errs, v.app.printJSON(rows))...)
	}
	word := "removed"
	if dry {
		word = "would remove"
	}
	for _, r := range rows {
		if r.Error == "" {
			errs = append(errs, v.app.printf("%s %s (%s)\n", word, r.ID, r.Name))
		}
	}
	return errors.Join(errs...)
}
