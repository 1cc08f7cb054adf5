package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/engine"
	"layervault/layer"
	"layervault/plugin"
	"layervault/snapshotter"
)

// metaDatabase is where below its root containerd keeps its database.
const metaDatabase = "io.containerd.metadata.v1.bolt/meta.db"

// snapshotCheck is what a person chooses for snapshot check.
type snapshotCheck struct {
	mend, erase bool
	database    string
	set         settings
	doors       doorSettings
}

// problemRow is one problem in snapshot check --json.
type problemRow struct {
	Problem  string `json:"problem"`
	Snapshot string `json:"snapshot"`
	Layer    string `json:"layer,omitempty"`
	Named    string `json:"named_by_containerd"` // yes, no or unknown
	Meaning  string `json:"meaning"`
	Next     string `json:"next,omitempty"`
}

// checkResult is the answer of snapshot check --json.
type checkResult struct {
	Database string       `json:"containerd_database"`
	Unread   string       `json:"containerd_database_error,omitempty"`
	Mended   []problemRow `json:"mended,omitempty"`
	Problems []problemRow `json:"problems"`
}

func newSnapshotCheckCommand(a *app) *cobra.Command {
	c := &snapshotCheck{set: settingsOf(a.env), doors: doorSettingsOf(a.env)}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare the snapshots with their layers and with containerd's database",
		Long: `Compare three things that know of snapshots: layervault's database of them, the layers, and
containerd's own database. They differ after one of the databases was lost or restored from
an older copy. Without --mend nothing is changed, and no key is needed. Exit status 6 if they
differ.

Containerd's database can only be read while containerd is stopped.

--mend, with containerd and layervault stopped, lists layers again that containerd names, ends
interrupted commits, and drops entries without a layer that nothing names. It erases nothing;
--erase also destroys layers that neither database nor a label, container or lease names.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.snapshotCheck(cmd.Context(), *c) },
	}
	f := cmd.Flags()
	f.BoolVar(&c.mend, "mend", false, "mend what can be mended without a loss")
	f.BoolVar(&c.erase, "erase", false, "with --mend: erase layers that nothing names")
	f.StringVar(&c.database, "containerd-database", "", "meta.db of containerd; empty for that of the containerd found here")
	f.StringVar(&c.doors.Snapshots, "snapshot-socket", plugin.DefaultSnapshotSocket, "socket of the door snapshots, of a service that runs")
	c.set.opening(f, a.env)
	return cmd
}

func (a *app) snapshotCheck(ctx context.Context, c snapshotCheck) error {
	if err := c.set.check(); err != nil {
		return err
	}
	if c.erase && !c.mend {
		return usagef("--erase is for --mend")
	}
	asking := plugin.Asking{Snapshots: c.doors.Snapshots, Database: c.database}
	if asking.Database == "" {
		asking.Database = filepath.Join(engine.Host{}.Find(ctx).Root(), metaDatabase)
	}
	res := checkResult{Database: asking.Database, Problems: []problemRow{}}
	var mendErr error
	if c.mend {
		var mended []snapshotter.Problem
		mended, mendErr = a.mendSnapshots(ctx, c, asking)
		res.Mended = problemRows(mended)
	}
	problems, asked, err := plugin.CheckSnapshots(ctx, a.layout(), asking)
	if err != nil && !errors.Is(err, layer.ErrDamaged) {
		return errors.Join(mendErr, err)
	}
	if asked != nil {
		res.Unread = asked.Error()
	}
	res.Problems = append(res.Problems, problemRows(problems)...)
	if printErr := a.printChecked(res); printErr != nil {
		return printErr
	}
	if len(problems) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d problems", plugin.ErrSnapshots, len(problems)))
	}
	return errors.Join(mendErr, err)
}

// mendSnapshots mends with the vault open.
func (a *app) mendSnapshots(ctx context.Context, c snapshotCheck, asking plugin.Asking) (mended []snapshotter.Problem, err error) {
	log := a.ringLog()
	open := a.newVault(c.set, volumeSettings{}, nil, log)
	defer func() { err = errors.Join(err, open.Close()) }()
	service := c.doors.Service(a.layout())
	service.DefaultSize = c.set.sizeBytes
	return plugin.MendSnapshots(ctx, plugin.Config{Vault: open, Log: log, NextStep: advice.Step, Containerd: service}, asking, c.erase)
}

func problemRows(problems []snapshotter.Problem) []problemRow {
	var rows []problemRow
	for _, p := range problems {
		rows = append(rows, problemRow{string(p.Kind), p.Snapshot, p.Layer, p.Named.String(), p.Kind.Meaning(), advice.Snapshot(p.Kind)})
	}
	return rows
}

func (a *app) printChecked(res checkResult) error {
	if a.json {
		return a.printJSON(res)
	}
	if res.Unread != "" {
		if err := a.printf("not compared with containerd: %s: %s\n", res.Database, res.Unread); err != nil {
			return err
		}
	}
	for _, row := range res.Mended {
		if err := a.printf("mended: %s: %s (layer %s)\n", row.Problem, row.Snapshot, orDash(row.Layer)); err != nil {
			return err
		}
	}
	if len(res.Problems) == 0 {
		return a.printf("no problems\n")
	}
	cells := make([][]string, 0, len(res.Problems))
	for _, row := range res.Problems {
		cells = append(cells, []string{row.Problem, orDash(row.Layer), row.Named, row.Snapshot})
	}
	if err := a.table([]string{"PROBLEM", "LAYER", "NAMED BY CONTAINERD", "SNAPSHOT"}, cells); err != nil {
		return err
	}
	said := map[string]bool{}
	for _, row := range res.Problems {
		if !said[row.Problem] {
			said[row.Problem] = true
			if err := a.printf("%s: %s\n", row.Problem, row.Meaning); err != nil {
				return err
			}
			if row.Next == "" {
				continue
			}
			if err := a.printf("next: %s\n", row.Next); err != nil {
				return err
			}
		}
	}
	return nil
}
