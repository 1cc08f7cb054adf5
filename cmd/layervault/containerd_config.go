package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"layervault/engine"
	"layervault/persist"
)

// containerdConfig is what a person chooses for containerd config.
type containerdConfig struct {
	write  bool
	cri    bool
	docker bool
	differ bool
	file   string
	daemon string
	doors  doorSettings
}

func newContainerdConfigCommand(a *app) *cobra.Command {
	c := &containerdConfig{doors: doorSettingsOf(a.env)}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print or write the configuration of containerd and docker",
		Long: `Find containerd, and print the lines that its configuration lacks for layervault's
snapshotter and differ; with --docker those of docker's daemon.json too.

--write edits the files: all other lines stay as they are, the old file is kept beside the
new one, and containerd itself reads the new one before it counts. Nothing is restarted.

A containerd that dockerd starts or contains cannot be configured. For k3s and rke2 the
lines belong into a template.`,
		Example: `  layervault containerd config
  layervault containerd config --write --docker && systemctl restart containerd docker`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.containerdConfig(cmd.Context(), *c) },
	}
	f := cmd.Flags()
	f.BoolVar(&c.write, "write", false, "edit the files, and keep the old ones")
	f.BoolVar(&c.cri, "cri", false, "make it the snapshotter of Kubernetes (CRI)")
	f.BoolVar(&c.docker, "docker", false, "daemon.json too: docker with the containerd image store")
	f.BoolVar(&c.differ, "differ", true, "unpack with layervault's differ")
	f.StringVar(&c.file, "config", "", "configuration of containerd; empty for that of the one that runs")
	f.StringVar(&c.daemon, "daemon-json", "", "configuration of dockerd; empty for that of the one that runs")
	c.doors.containerdSockets(f)
	return cmd
}

func (a *app) containerdConfig(ctx context.Context, c containerdConfig) error {
	var host engine.Host
	found := host.Find(ctx)
	target, err := c.target(found)
	if err != nil {
		return err
	}
	wanted := engine.Wanted{Snapshots: c.doors.Snapshots, Exports: a.layout().Tier(persist.Vault), CRI: c.cri}
	if c.differ {
		wanted.Diffs = c.doors.Diff
	}
	plan, planErr := host.Plan(target, wanted)
	if plan == nil {
		return planErr
	}
	changes := []*engine.Change{{Containerd: &target, Plan: plan}}
	if planErr != nil {
		changes[0].Error = planErr.Error()
	}
	if c.docker && planErr == nil {
		file := c.daemon
		if file == "" {
			file = engine.DaemonConfig(found)
		}
		daemon, err := host.PlanDaemon(ctx, file, target.Socket, found.Dockerd)
		if err != nil {
			return err
		}
		changes = append(changes, &engine.Change{Plan: daemon})
	}
	var writeErr error
	if c.write && planErr == nil {
		writeErr = host.WriteAll(ctx, changes)
	}
	if a.json {
		return errors.Join(a.printJSON(changes), planErr, writeErr)
	}
	return errors.Join(a.printf("%s", engine.Text(changes)), planErr, writeErr)
}

// target is the containerd to be configured.
func (c containerdConfig) target(found engine.Found) (engine.Containerd, error) {
	target, err := found.Target()
	if c.file == "" {
		return target, err
	}
	if err != nil || !target.Kind.Configurable() { // the file is of another one
		target = engine.Containerd{Kind: engine.External, Socket: c.doors.Containerd}
	}
	target.Config = c.file
	return target, nil
}
