package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"layervault/driver"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/persist"
	"layervault/plugin"
	"layervault/plugin/mountns"
	"layervault/plugin/socket"
)

const (
	// defaultSocket is where dockerd looks for plugins, and where a managed plugin
	// must put its socket.
	defaultSocket = "/run/docker/plugins/layervault.sock"

	// memoryLimit makes the garbage collector work harder before the plugin grows
	// past it; it is no hard limit. Importing layers makes garbage fast, and the
	// plugin is to stay below 64 MiB, runtime included.
	memoryLimit = 48 << 20
)

func newServeCommand(a *app) *cobra.Command {
	s, v := settingsOf(a.env), volumeSettingsOf(a.env)
	var path string
	var onlyVolumes bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the plugin: the graph driver and the volume driver",
		Long: `Run the plugin on a socket: the graph driver and the volume driver, or with --volumes only
the volume driver, which works with every Docker version, 28 and later too.

Each setting is a flag or the environment variable of the same name, which
"docker plugin set layervault key=tpm" sets. The first start makes the vault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(s.check(), v.check()); err != nil {
				return err
			}
			return a.serve(cmd.Context(), path, s, v, onlyVolumes)
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "socket", defaultSocket, "socket to listen on")
	f.BoolVar(&onlyVolumes, "volumes", false, "serve volumes only")
	s.making(f, a.env)
	for _, add := range []func(*pflag.FlagSet){s.images, s.serving, v.found, v.made, v.serving} {
		add(f)
	}
	return cmd
}

// serve answers on the socket until ctx ends.
func (a *app) serve(ctx context.Context, path string, s settings, v volumeSettings, onlyVolumes bool) error {
	log := plugin.NewLog(a.out, a.err, s.level, nextStep)
	// main has tried this too; a process that holds the key for months must succeed.
	if err := keys.NoCoreDumps(); err != nil {
		return err
	}
	// For the programs it starts: being undumpable is not inherited, this is.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	debug.SetMemoryLimit(memoryLimit)
	if err := mountns.LetGo(a.persist); err != nil {
		return err
	}
	l, err := socket.Listen(ctx, path)
	if err != nil {
		return err
	}
	log.Info("layervault listens", "version", readVersion().Version, "socket", path, "persist", a.persist, "key", s.key)
	person := handover.New(a.layout().Tier(persist.Vault), log)
	open := a.newVault(s, v, person, log)
	cfg := plugin.Config{Vault: open, NoUpgrade: s.noUpgrade, NextStep: nextStep, Log: log}
	if !onlyVolumes {
		cfg.Driver = &driver.Config{Layout: a.layout(), CryptParams: s.crypt(), DefaultSize: s.sizeBytes, Log: log}
	}
	return errors.Join(plugin.Serve(ctx, l, cfg), open.Close(), person.Close())
}
