package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"layervault/disk"
)

func (v *volumeVerb) composeDisk() *cobra.Command {
	var yaml bool
	var name string
	driver := "layervault"
	cmd := &cobra.Command{
		Use:   "compose RUN.JSON",
		Short: "Print the docker volumes and run options that match a container's run.json or src.json",
		Long: `Print the docker volumes and run options that match a container's run.json or src.json.

A src.json beside a run.json is read too, because run.json does not have the full mount
points. Guessed mount points are marked. Entries that docker has no counterpart for are
left out and named; the exit status is then 1.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		return v.withDisks(func(s *disk.Set) error {
			in, err := disk.ReadSource(args[0])
			if err != nil {
				return err
			}
			in.Name = name
			c, err := s.Compose(in)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			v.app.warn(args[0], c.Warnings)
			if err := v.printCompose(c, driver, yaml); err != nil {
				return err
			}
			var left []error
			for _, w := range c.LeftOut {
				left = append(left, fmt.Errorf("%w of %s: %s", errLeftOut, args[0], w))
			}
			return errors.Join(left...)
		})
	}
	cmd.Flags().BoolVar(&yaml, "yaml", false, "print a part of a compose file")
	cmd.Flags().StringVar(&driver, "driver", driver, "name of the volume plugin in docker")
	cmd.Flags().StringVar(&name, "name", "", "name of the container (default: the name in the file, or of its folder)")
	return cmd
}

// errLeftOut: disk compose left out entries.
var errLeftOut = errors.New("left out")

func (v *volumeVerb) printCompose(c disk.Container, driver string, yaml bool) error {
	if v.app.json {
		return v.app.printJSON(map[string]any{"container": c.Name, "mounts": append([]disk.Mount{}, c.Mounts...)})
	}
	if yaml {
		return v.app.printf("%s", c.YAML(driver))
	}
	return v.app.printf("%s", c.Shell(driver))
}
