package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"layervault/area"
	"layervault/convert"
	"layervault/keys/secretio"
	"layervault/persist"
	"layervault/vault"
	"layervault/volume"
)

// persistUpgradeVerb is persist upgrade.
type persistUpgradeVerb struct {
	*volumeVerb
	dryRun, commit bool
}

// convertMounts is where volumes are mounted while they are filled.
const convertMounts = "/run/layervault-upgrade"

func newPersistUpgradeCommand(a *app) *cobra.Command {
	u := &persistUpgradeVerb{}
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Bring EVE's older layout of /persist into the vault",
		Long: `Bring EVE's older layout of /persist into the vault: disks of VMs (img), folders of containers
(runx/pods/prepared), downloads, and containerd's root. The checkpoint of EVE's configuration
says which volume each belongs to.

Everything is copied, read back from the disk and compared. The sources are kept, so that a
base-OS update can fall back; --commit destroys the source of each item that is in its new
place. An existing destination is never replaced. An interrupted upgrade loses nothing: run the
command again. Run it after the areas were opened, and before containerd starts.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return u.run(cmd.Context()) },
	}
	u.volumeVerb = a.newVolumeVerb()
	u.reads(cmd, readsPlaces|readsKeys|makesImages)
	f := cmd.Flags()
	f.BoolVarP(&u.dryRun, "dry-run", "n", false, "show what goes where and what is left, and the space; change nothing")
	f.BoolVar(&u.commit, "commit", false, "destroy the sources of what is in its new place")
	return cmd
}

func (u *persistUpgradeVerb) run(ctx context.Context) error {
	return u.withStore(ctx, func(v *vault.Vault, store *volume.Store) error {
		layout := u.app.layout()
		report, err := convert.Run(ctx, convert.Config{
			Layout: layout, Commit: u.commit, DryRun: u.dryRun, Progress: u.app.copyProgress(), Log: u.app.ringLog(),
			Places: convert.Split{Volumes: convert.VolumeStore{Store: store, Layout: layout, Mounts: convertMounts}, Areas: convert.Images{Folders: openAreas(v.Areas(), layout), On: layout.Root}},
		})
		if len(report.Items) == 0 && err != nil {
			return err
		}
		return errors.Join(err, u.app.result(report, "%s", report.String()))
	})
}

// openAreas finds the areas that are open.
func openAreas(set *area.Set, l persist.Layout) convert.Folders {
	open := convert.Folders{}
	for _, a := range persist.Areas {
		if set.State(a).State == area.StateOpen {
			open[convert.Area(a)] = l.Area(a)
		}
	}
	return open
}

// copyProgress shows bytes, rate and time left on a terminal, and nothing elsewhere.
func (a *app) copyProgress() func(convert.Progress) {
	if a.json || !secretio.IsTerminal(a.err) {
		return nil
	}
	return func(p convert.Progress) {
		left := ""
		if p.Left > 0 {
			left = ", " + p.Left.Round(time.Second).String() + " left"
		}
		text := fmt.Sprintf("%s of %s, %d of %d files, %s/s%s", size(p.Bytes), size(p.TotalBytes), p.Files, p.TotalFiles, size(p.BytesPerSec), left)
		const width = 79
		_, _ = fmt.Fprintf(a.err, "\r%s", text+strings.Repeat(" ", max(0, width-len(text))))
		if p.Files == p.TotalFiles {
			_, _ = fmt.Fprintln(a.err)
		}
	}
}
