package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"layervault/volume"
)

// optionFlag adds -o name=value.
func optionFlag(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArrayP("opt", "o", nil, "option as for docker volume create: "+strings.Join(volume.OptionNames(), ", "))
}

func optionMap(opts []string) (map[string]string, error) {
	m := make(map[string]string, len(opts))
	for _, o := range opts {
		name, value, ok := strings.Cut(o, "=")
		if _, twice := m[name]; !ok || twice {
			return nil, usagef("-o %q: must be name=value, each name once", o)
		}
		m[name] = value
	}
	return m, nil
}

func (v *volumeVerb) create() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create VOLUME",
		Short: "Make a volume, as docker volume create does",
		Args:  cobra.ExactArgs(1),
	}
	return makes(v, cmd, volume.ParseOptions, (*volume.Store).Create)
}

// makes completes a verb that makes a generation of the volume, with the options that parse
// reads.
func makes[O any](v *volumeVerb, cmd *cobra.Command, parse func(map[string]string) (O, error),
	do func(s *volume.Store, ctx context.Context, name string, o O) (volume.Volume, error)) *cobra.Command {
	opts := optionFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := optionMap(*opts)
		if err != nil {
			return err
		}
		o, err := parse(m)
		if err != nil {
			return err
		}
		return v.with(cmd.Context(), func(s *volume.Store) error {
			made, err := do(s, cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return v.printMade(made)
		})
	}
	return cmd
}

// printMade prints the new generation of a volume; without --json only its ID.
func (v *volumeVerb) printMade(made volume.Volume) error {
	return v.app.result(map[string]string{"name": made.Name, "id": made.ID().String(), "path": made.Path}, "%s\n", made.ID())
}

func (v *volumeVerb) grow() *cobra.Command {
	return &cobra.Command{
		Use:   "grow VOLUME SIZE",
		Short: "Make a volume larger, also while in use",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := volume.ParseSize(args[1])
			if err != nil {
				return err
			}
			return v.with(cmd.Context(), func(s *volume.Store) error {
				if err := s.Grow(cmd.Context(), args[0], n); err != nil {
					return err
				}
				return v.app.result(map[string]any{"name": args[0], "size_bytes": n}, "%s now has %s\n", args[0], size(n))
			})
		},
	}
}

func (v *volumeVerb) trim() *cobra.Command {
	return &cobra.Command{
		Use:   "trim VOLUME",
		Short: "Give the space of deleted files back to the disk",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				before, after, err := s.Trim(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return v.app.result(map[string]any{"name": args[0], "before_bytes": before, "after_bytes": after},
					"%s uses %s on the disk, %s before\n", args[0], size(after), size(before))
			})
		},
	}
}

func (v *volumeVerb) purge() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge VOLUME",
		Short: "Replace a volume by a new, empty generation; the old one is destroyed",
		Long: `Replace a volume by a new, empty generation; the old one is destroyed, its key first.
Options change the volume; everything else stays the same.`,
		Args: cobra.ExactArgs(1),
	}
	return makes(v, cmd, volume.ParseChange, (*volume.Store).Purge)
}
