package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/disk"
	"layervault/vault"
	"layervault/volume"
)

// defaultDiskMounts is where disk mount --all mounts.
const defaultDiskMounts = "/run/layervault-disks"

func newDiskCommand(a *app) *cobra.Command {
	return group("disk", "Manage Pantavisor's disks (device.json, setting disks)",
		a.verb((*volumeVerb).listDisks, readsDisks),
		a.verb((*volumeVerb).checkDisks, readsDisks),
		a.verb((*volumeVerb).mountDisk, readsDisks|makesVault|makesImages),
		a.verb((*volumeVerb).umountDisk, readsDisks),
		a.verb((*volumeVerb).composeDisk, readsDisks),
		a.verb((*volumeVerb).diskKey, readsDisks|readsKeys),
	)
}

// withDisks calls f with the disks that are configured.
func (v *volumeVerb) withDisks(f func(s *disk.Set) error) error {
	if v.vol.disks == "" {
		return usagef("no device.json is configured: name one with --disks FILE (env disks)")
	}
	return v.withVault(func(open *vault.Vault) error {
		set, err := open.LoadDisks()
		if err != nil {
			return err
		}
		v.app.warn(v.vol.disks, set.Warnings())
		return f(set)
	})
}

// warn prints the warnings of a file.
func (a *app) warn(file string, warnings []disk.Warning) {
	for _, w := range warnings {
		_, _ = fmt.Fprintf(a.err, "layervault: warning: %s: %s\n", file, w)
	}
}

// diskRow is one disk in disk list --json.
type diskRow struct {
	Name     string    `json:"name"`
	Aliases  []string  `json:"aliases"`
	Type     disk.Type `json:"type"`
	Mode     disk.Mode `json:"mode,omitempty"`
	State    string    `json:"state"`
	Problems []string  `json:"problems"`
	Warnings []string  `json:"warnings,omitempty"`
	Path     string    `json:"path"`
	Size     int64     `json:"size_bytes,omitempty"`
	Default  bool      `json:"default,omitempty"`
	Options  string    `json:"options,omitempty"`
	Mounts   []string  `json:"mounts"`
}

// diskVolumeRow is one entry of device.json's volumes.
type diskVolumeRow struct {
	Name        string             `json:"name"`
	Persistence volume.Persistence `json:"persistence"`
	Disk        string             `json:"disk,omitempty"`
}

func diskRows(all []disk.Status) []diskRow {
	rows := make([]diskRow, 0, len(all))
	for _, st := range all {
		path := st.Dir
		if st.IsCrypt() {
			path = st.ImagePath()
		}
		rows = append(rows, diskRow{
			Name: st.Name, Aliases: append([]string{}, st.Aliases...), Type: st.Type, Mode: st.Mode, State: st.State, Problems: append([]string{}, st.Problems...), Warnings: st.Warnings,
			Path: path, Size: st.Size, Default: st.Default, Options: st.Options, Mounts: append([]string{}, st.Mounts...),
		})
	}
	return rows
}

func (v *volumeVerb) listDisks() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the disks, and the volumes that device.json puts on them",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return v.withDisks(func(s *disk.Set) error {
				all, err := s.Inspect()
				if err != nil {
					return err
				}
				return v.printDisks(diskRows(all), s.File())
			})
		},
	}
}

func (v *volumeVerb) printDisks(rows []diskRow, file disk.File) error {
	volumes := file.Volumes
	if v.app.json {
		list := make([]diskVolumeRow, 0, len(volumes))
		for _, vol := range volumes {
			list = append(list, diskVolumeRow(vol))
		}
		warnings := make([]string, 0, len(file.Warnings))
		for _, w := range file.Warnings {
			warnings = append(warnings, w.String())
		}
		return v.app.printJSON(map[string]any{"disks": rows, "volumes": list, "warnings": warnings})
	}
	cells := make([][]string, 0, len(rows))
	for _, r := range rows {
		name, bound := r.Name, "-"
		if r.Default {
			name += " (default)"
		}
		if r.Size > 0 {
			bound = size(r.Size)
		}
		cells = append(cells, []string{name, string(r.Type), r.State, bound, orDash(r.Path)})
	}
	if err := v.app.table([]string{"DISK", "TYPE", "STATE", "SIZE", "PATH"}, cells); err != nil || len(volumes) == 0 {
		return err
	}
	cells = cells[:0]
	for _, vol := range volumes {
		cells = append(cells, []string{vol.Name, string(vol.Persistence), orDash(vol.Disk)})
	}
	if err := v.app.printf("\n"); err != nil {
		return err
	}
	return v.app.table([]string{"VOLUME", "PERSISTENCE", "DISK"}, cells)
}

func (v *volumeVerb) checkDisks() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Compare device.json with the disks; nothing is changed",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return v.withDisks(func(s *disk.Set) error {
				all, err := s.Inspect()
				if err != nil {
					return err
				}
				errs := disk.Faults(all)
				warnings := len(s.Warnings())
				for _, st := range all {
					for _, w := range st.Warnings {
						v.app.warn("disk "+st.Name, []disk.Warning{{Entry: "check", Text: w}})
						warnings++
					}
				}
				if v.app.json {
					errs = append(errs, v.app.printJSON(diskRows(all)))
				} else if len(errs) == 0 {
					errs = append(errs, v.app.printf("%d disks, no problems%s\n", len(all), counted(warnings)))
				}
				return errors.Join(errs...)
			})
		},
	}
}

// counted is how many warnings there were, for the end of a line.
func counted(warnings int) string {
	if warnings == 0 {
		return ""
	}
	return fmt.Sprintf(", %d warnings", warnings)
}

func (v *volumeVerb) mountDisk() *cobra.Command {
	var all bool
	dir := defaultDiskMounts
	cmd := &cobra.Command{
		Use:   "mount DISK PATH | --all",
		Short: "Mount one disk, or all disks, on the host; the first mount makes image and key",
		Args:  cobra.MaximumNArgs(2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all != (len(args) == 0) || len(args) == 1 {
			return usagef("give a disk and a path, or --all")
		}
		return v.withDisks(func(s *disk.Set) error {
			if !all {
				if err := s.MountHost(cmd.Context(), args[0], args[1]); err != nil {
					return err
				}
				return v.app.result(map[string]string{"disk": args[0], "path": args[1]}, "%s is mounted at %s\n", args[0], args[1])
			}
			mounted, err := s.MountAll(cmd.Context(), dir)
			return errors.Join(err, v.app.result(map[string]any{"mounted": append([]string{}, mounted...)}, "%s\n", strings.Join(mounted, "\n")))
		})
	}
	cmd.Flags().BoolVar(&all, "all", false, "mount every disk, each in a folder of its name below --at")
	cmd.Flags().StringVar(&dir, "at", dir, "folder for --all")
	return cmd
}

func (v *volumeVerb) umountDisk() *cobra.Command {
	var all bool
	dir := defaultDiskMounts
	cmd := &cobra.Command{
		Use:   "umount DISK [PATH] | --all",
		Short: "Unmount one disk, or all disks in the reverse order, from the host",
		Args:  cobra.MaximumNArgs(2),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if all != (len(args) == 0) {
			return usagef("give a disk, or --all")
		}
		return v.withDisks(func(s *disk.Set) error {
			switch len(args) {
			case 0:
				return s.UnmountAll(dir)
			case 1:
				return s.Unmount(args[0], "")
			}
			return s.Unmount(args[0], args[1])
		})
	}
	cmd.Flags().BoolVar(&all, "all", false, "unmount every disk that mount --all mounted")
	cmd.Flags().StringVar(&dir, "at", dir, "folder for --all")
	return cmd
}

func (v *volumeVerb) diskKey() *cobra.Command {
	return v.app.passphraseVerb("key DISK", "Write the LUKS2 passphrase of a disk of type luks, for stock cryptsetup",
		func(ctx context.Context, name string, write func([]byte, error) error) error {
			return v.withDisks(func(s *disk.Set) error { return write(s.Passphrase(ctx, name)) })
		})
}
