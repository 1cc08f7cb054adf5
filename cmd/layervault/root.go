package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/persist"
)

// app is what every verb shares.
type app struct {
	streams
	env func(string) string

	args    []string // the command line without the program's name
	persist string   // --persist
	json    bool     // --json
	areas   areaSettings
}

// layout gives the paths below --persist.
func (a *app) layout() persist.Layout { return persist.Layout{Root: a.persist} }

// usagef makes an error of the command line; verbs use it for what flags alone cannot check.
func usagef(format string, args ...any) error {
	return &advice.UsageError{Err: fmt.Errorf(format, args...)}
}

// run executes a command line and returns the exit status.
func run(ctx context.Context, args []string, s streams, env func(string) string) int {
	a := &app{streams: s, env: env, args: args, areas: areaSettingsOf(env)}
	root := newRootCommand(a)
	// What fails before this hook is the command line's fault: cobra runs it
	// after flags and arguments were checked.
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		err = &advice.UsageError{Err: err}
	}
	a.report(err)
	return advice.Status(err)
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "layervault",
		Short:         "Encrypted container storage: every layer is a LUKS2 image",
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true, // reported once, by app.report
		SilenceUsage:  true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().StringVar(&a.persist, "persist", envOr(a.env, "persist", persist.DefaultRoot), "folder of the vault (env persist)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print results and errors as JSON")
	root.SetHelpCommand(newHelpCommand(a))
	root.AddGroup(
		&cobra.Group{ID: "daily", Title: "Daily:"},
		&cobra.Group{ID: "keys", Title: "Keys:"},
		&cobra.Group{ID: "volumes", Title: "Volumes:"},
		&cobra.Group{ID: "persist", Title: "Layout of /persist:"},
		&cobra.Group{ID: "layers", Title: "Layers:"},
		&cobra.Group{ID: "host", Title: "Host:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
		}
		root.AddCommand(commands...)
	}
	add("daily", newStatusCommand(a), newDoctorCommand(a))
	add("keys", newKeyCommand(a), newVaultCommand(a))
	add("volumes", newVolumeCommand(a), newRevisionCommand(a), newDiskCommand(a))
	add("persist", newPersistCommand(a), newContentCommand(a))
	add("layers", newLayerCommand(a), newImageCommand(a), newSnapshotCommand(a))
	add("host", newServeCommand(a), newContainerdCommand(a), newMigrateCommand(a), newVersionCommand(a))
	root.SetHelpCommandGroupID("daily")
	root.SetCompletionCommandGroupID("host")
	return root
}

// group makes a command that only holds others: alone it prints its help, and with
// a word that is no subcommand it fails.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q for %q; see \"%s --help\"", args[0], cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(sub...)
	return cmd
}

// envOr is the environment's value of a setting, or its default. The managed
// plugin gets its settings this way (`docker plugin set layervault key=tpm`).
func envOr(env func(string) string, name, def string) string {
	if v := env(name); v != "" {
		return v
	}
	return def
}
