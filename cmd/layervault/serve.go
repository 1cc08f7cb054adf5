package main

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"layervault/advice"
	"layervault/crypt"
	"layervault/driver"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/persist"
	"layervault/plugin"
	"layervault/plugin/mountns"
	"layervault/plugin/socket"
)

func newServeCommand(a *app) *cobra.Command {
	s, v, d := settingsOf(a.env), volumeSettingsOf(a.env), doorSettingsOf(a.env)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the plugin: the doors for docker and containerd",
		Long: `Run the doors that --doors names, over one vault:

  graph      docker's graph driver, for Docker 20.10 to 27
  volumes    docker's volume driver, for every Docker
  snapshots  containerd's snapshotter
  diff       containerd's differ: layers go straight into encrypted images

The first two share a socket, the others have one each. --volumes is --doors volumes.

Each setting is a flag or the environment variable of the same name, which
"docker plugin set layervault key=tpm" sets. The first start makes the vault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(s.check(), v.check(), d.check()); err != nil {
				return err
			}
			return a.serve(cmd.Context(), s, v, d)
		},
	}
	f := cmd.Flags()
	d.register(f)
	s.making(f, a.env)
	for _, add := range []func(*pflag.FlagSet){s.images, s.sealed, s.serving, v.found, v.made, v.serving} {
		add(f)
	}
	return cmd
}

// serve answers on the sockets until ctx ends.
func (a *app) serve(ctx context.Context, s settings, v volumeSettings, d doorSettings) error {
	log := plugin.NewLog(a.out, a.err, s.level, advice.Step)
	// main has tried this too; a process that holds the key for months must succeed.
	if err := keys.NoCoreDumps(); err != nil {
		return err
	}
	if err := plugin.Limit(); err != nil {
		return err
	}
	if err := mountns.LetGo(a.persist); err != nil {
		return err
	}
	cfg := plugin.Config{NoUpgrade: s.noUpgrade, SealOlder: s.sealOlder, SealCommitted: s.sealWritten, NextStep: advice.Step, Log: log}
	var l net.Listener
	var err error
	if l, cfg.Containerd, err = d.Listen(ctx, os.Getenv, a.layout()); err != nil {
		return err
	}
	if cfg.Containerd != nil {
		cfg.Containerd.DefaultSize = s.sizeBytes
	}
	// From here on clients wait for the vault, and not for this process.
	if err := socket.Ready(ctx, os.Getenv); err != nil {
		log.Warn("systemd does not know that layervault answers", "error", err)
	}
	log.Info("layervault listens", "version", readVersion().Version, "doors", d.doors, "persist", a.persist, "key", s.key)
	person := handover.New(a.layout().Tier(persist.Vault), log)
	cfg.Vault = a.newVault(s, v, person, log)
	if d.Has(plugin.DoorGraph) {
		cfg.Driver = &driver.Config{Layout: a.layout(), CryptParams: s.crypt(), Verity: crypt.Verity(s.verity), DefaultSize: s.sizeBytes, Log: log}
	}
	return errors.Join(plugin.Serve(ctx, l, cfg), cfg.Vault.Close(), person.Close())
}
