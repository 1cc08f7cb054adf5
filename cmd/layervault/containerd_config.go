package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

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

// configured is one file in the answer of containerd config.
type configured struct {
	Containerd *engine.Containerd `json:"containerd,omitempty"` // nil for docker's daemon.json
	*engine.Plan
	Kept    string `json:"kept,omitempty"` // the copy of the old file
	Written bool   `json:"written,omitempty"`
	Error   string `json:"error,omitempty"` // why only a person can edit it
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
	files := []*configured{{Containerd: &target, Plan: plan}}
	if planErr != nil {
		files[0].Error = planErr.Error()
	}
	if c.docker && planErr == nil {
		file := c.daemon
		if file == "" {
			file = engine.DaemonConfig(found)
		}
		daemon, err := host.PlanDaemon(file, target.Socket, found.Dockerd)
		if err != nil {
			return err
		}
		files = append(files, &configured{Plan: daemon})
	}
	var writeErr error
	if c.write && planErr == nil {
		writeErr = writeConfigs(ctx, host, files)
	}
	return errors.Join(a.printConfigs(files), planErr, writeErr)
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

// writeConfigs writes the files of all plans, until one fails.
func writeConfigs(ctx context.Context, host engine.Host, files []*configured) (err error) {
	for _, f := range files {
		if !f.Writable() {
			continue
		}
		if f.Kept, err = host.Write(ctx, f.Plan); err != nil {
			return fmt.Errorf("write %s: %w", f.File, err)
		}
		f.Written = true
	}
	return nil
}

func (a *app) printConfigs(files []*configured) error {
	if a.json {
		return a.printJSON(files)
	}
	var b strings.Builder
	for _, f := range files {
		if c := f.Containerd; c != nil {
			version := c.Version
			if version == "" {
				version = "of an unknown version"
			}
			fmt.Fprintf(&b, "# %s containerd %s, socket %s\n", c.Kind, version, c.Socket)
		}
		switch {
		case f.Written:
			fmt.Fprintf(&b, "# written: %s\n", f.File)
		case f.Lines == "":
			fmt.Fprintf(&b, "# nothing to do: %s\n", f.File)
		default:
			fmt.Fprintf(&b, "# to be in %s\n%s", f.File, f.Lines)
		}
		if f.Kept != "" {
			fmt.Fprintf(&b, "# the old one: %s\n", f.Kept)
		}
		for _, note := range f.Notes {
			fmt.Fprintf(&b, "# note: %s\n", note)
		}
		if f.Lines != "" {
			fmt.Fprintf(&b, "# then: %s\n", f.Restart)
		}
	}
	return a.printf("%s", b.String())
}
