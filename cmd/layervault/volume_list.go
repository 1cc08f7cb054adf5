package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"layervault/volume"
)

// volumeRow is one volume in volume list --json, and volume show --json.
type volumeRow struct {
	Name        string         `json:"name"`
	ID          string         `json:"id"`
	State       string         `json:"state"`
	Reason      string         `json:"reason,omitempty"`
	Created     *time.Time     `json:"created,omitempty"`
	Options     volume.Options `json:"options"`
	Size        int64          `json:"size_bytes,omitempty"` // of the image's file system
	Disk        int64          `json:"disk_bytes,omitempty"` // on the disk
	Path        string         `json:"path"`
	DockerDir   string         `json:"docker_dir,omitempty"`
	DockerIDs   []string       `json:"docker_mounts"`
	HostMounts  []string       `json:"host_mounts"`
	Superseded  bool           `json:"superseded,omitempty"`
	Persistence string         `json:"persistence"`
}

func rowOf(st volume.Status) volumeRow {
	row := volumeRow{
		Name: st.Name, ID: st.ID().String(), State: st.State, Reason: st.Reason, Options: st.Options, Size: st.Size, Disk: st.Disk, Path: st.Path,
		DockerDir: st.Dir, DockerIDs: append([]string{}, st.Docker...), HostMounts: append([]string{}, st.Host...), Superseded: st.Superseded,
		Persistence: string(st.Options.Persistence),
	}
	if !st.Created.IsZero() {
		row.Created = &st.Created
	}
	return row
}

func (v *volumeVerb) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the volumes with their state",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				all, err := s.InspectAll(cmd.Context())
				if err != nil {
					return err
				}
				return v.printList(all)
			})
		},
	}
}

func (v *volumeVerb) printList(all []volume.Status) error {
	rows := make([]volumeRow, 0, len(all))
	cells := make([][]string, 0, len(all))
	for _, st := range all {
		row := rowOf(st)
		rows = append(rows, row)
		place := string(st.Options.Tier)
		if st.Options.Disk != "" {
			place = "disk " + st.Options.Disk
		}
		bound := "-"
		if st.Size > 0 {
			bound = size(st.Size)
		}
		cells = append(cells, []string{orDash(st.Name), st.State, place, string(st.Options.Persistence), bound, size(st.Disk), row.ID})
	}
	if v.app.json {
		return v.app.printJSON(rows)
	}
	if err := v.app.table([]string{"VOLUME", "STATE", "PLACE", "PERSISTENCE", "SIZE", "DISK", "ID"}, cells); err != nil {
		return err
	}
	for _, row := range rows {
		if row.Reason != "" {
			if err := v.app.printf("%s: %s: %s\n", orDash(row.Name), row.State, row.Reason); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *volumeVerb) show() *cobra.Command {
	return &cobra.Command{
		Use:   "show VOLUME",
		Short: "Show one volume: options, state and mounts",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				st, err := s.Inspect(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return v.printVolume(st)
			})
		},
	}
}

func (v *volumeVerb) printVolume(st volume.Status) error {
	row := rowOf(st)
	if v.app.json {
		return v.app.printJSON(row)
	}
	var b strings.Builder
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-13s %s\n", name+":", text)
		}
	}
	o := st.Options
	line("Volume", row.Name)
	line("ID", row.ID)
	line("State", row.State)
	line("  why", row.Reason)
	line("Path", row.Path)
	line("Tier", string(o.Tier))
	line("Disk", o.Disk)
	line("Platform", o.Platform)
	line("Persistence", string(o.Persistence))
	line("Revision", o.Revision)
	line("Cipher", o.Cipher)
	for _, n := range []struct {
		name string
		n    int64
	}{{"Sector", int64(o.Sector)}, {"Inodes", o.Inodes}} {
		if n.n != 0 {
			line(n.name, strconv.FormatInt(n.n, 10))
		}
	}
	line("Mount options", o.MountOpts)
	if row.Size > 0 {
		line("Size", fmt.Sprintf("%s, %s on disk", size(row.Size), size(row.Disk)))
	}
	line("Docker", row.DockerDir)
	if len(row.DockerIDs) > 0 {
		line("  mounts", strings.Join(row.DockerIDs, " "))
	}
	line("Host", strings.Join(row.HostMounts, " "))
	return v.app.printf("%s", b.String())
}
