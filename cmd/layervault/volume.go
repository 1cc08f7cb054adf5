package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"layervault/volume"
)

// volumeSettings is what a person chooses for volumes, beside settings.
type volumeSettings struct {
	mounts   string
	size     string
	disks    string // device.json
	diskRoot string
	group    string // number of the group that may pass through mounts

	sizeBytes int64 // filled by check
	gid       int
}

func (v *volumeSettings) register(f *pflag.FlagSet, env func(string) string) {
	f.StringVar(&v.mounts, "mounts", envOr(env, "mounts", volume.DefaultMounts), "folder where volumes are mounted for docker (env mounts)")
	f.StringVar(&v.group, "mountsgroup", envOr(env, "mountsgroup", "0"), "number of the group that may pass through the folder of mounts: with userns-remap, that of the remapped root (env mountsgroup)")
	f.StringVar(&v.size, "volumesize", envOr(env, "volumesize", defaultSize), "size of a volume unless its option size= says another (env volumesize)")
	f.StringVar(&v.disks, "disks", env("disks"), "device.json or disks.json with disks for volumes (env disks)")
	f.StringVar(&v.diskRoot, "diskroot", env("diskroot"), "folder that all disks must lie below; empty for --persist (env diskroot)")
}

func (v *volumeSettings) check() (err error) {
	if v.sizeBytes, err = volume.ParseSize(v.size); err != nil {
		return usagef("setting volumesize=%q: %w", v.size, err)
	}
	gid, err := strconv.ParseUint(v.group, 10, 31)
	if err != nil {
		return usagef("setting mountsgroup=%q: give the number of a group: %w", v.group, err)
	}
	v.gid = int(gid)
	return nil
}

// openVolumes opens the store of volumes.
func (a *app) openVolumes(ctx context.Context, s settings, v volumeSettings, keys volumeKeys, log *slog.Logger) (*volume.Store, error) {
	return volume.Open(ctx, volume.Config{
		Layout: a.layout(), Mounts: v.mounts, MountsGID: v.gid, Keys: keys, Disks: a.disks(s, v, keys, log), DefaultSize: v.sizeBytes, CryptParams: s.crypt(), Log: log,
	})
}

// volumeVerb is what the volume and revision verbs share.
type volumeVerb struct {
	app *app
	set settings
	vol volumeSettings
}

func (a *app) newVolumeVerb(f *pflag.FlagSet) *volumeVerb {
	v := &volumeVerb{app: a}
	v.set.register(f, a.env)
	v.set.registerRecovery(f)
	v.vol.register(f, a.env)
	return v
}

// with calls f with an open store. No tier is opened before f needs it.
func (v *volumeVerb) with(ctx context.Context, f func(s *volume.Store) error) (err error) {
	if err := errors.Join(v.set.check(), v.vol.check()); err != nil {
		return err
	}
	log := v.app.ringLog()
	tiers := newTiers(v.app, v.set, nil, log)
	defer func() { err = errors.Join(err, tiers.Close()) }()
	store, err := v.app.openVolumes(ctx, v.set, v.vol, tiers.forVolumes, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return f(store)
}

func newVolumeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{}
	v := a.newVolumeVerb(cmd.PersistentFlags())
	g := group("volume", "Look after encrypted volumes",
		v.list(), v.show(), v.create(), v.grow(), v.trim(), v.purge(), v.remove(), v.gc(), v.mount(), v.umount(), v.key())
	g.PersistentFlags().AddFlagSet(cmd.PersistentFlags())
	return g
}

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
		Short: "Show one volume: options, state, and who has it mounted",
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

// optionFlag adds -o name=value.
func optionFlag(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArrayP("opt", "o", nil, "an option as docker volume create has it: "+strings.Join(volume.OptionNames(), ", "))
}

func optionMap(opts []string) (map[string]string, error) {
	m := make(map[string]string, len(opts))
	for _, o := range opts {
		name, value, ok := strings.Cut(o, "=")
		if _, twice := m[name]; !ok || twice {
			return nil, usagef("-o %q: give name=value, each name once", o)
		}
		m[name] = value
	}
	return m, nil
}

func (v *volumeVerb) create() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create VOLUME",
		Short: "Make a volume, as docker volume create does",
		Args:  cobra.ExactArgs(1),
	}
	opts := optionFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := optionMap(*opts)
		if err != nil {
			return err
		}
		want, err := volume.ParseOptions(m)
		if err != nil {
			return err
		}
		return v.with(cmd.Context(), func(s *volume.Store) error {
			made, err := s.Create(cmd.Context(), args[0], want)
			if err != nil {
				return err
			}
			return v.printMade(made)
		})
	}
	return cmd
}

// printMade says which generation of a volume was made, for people its id alone.
func (v *volumeVerb) printMade(made volume.Volume) error {
	return v.app.result(map[string]string{"name": made.Name, "id": made.ID().String(), "path": made.Path}, "%s\n", made.ID())
}

// result prints one outcome, for people or as JSON.
func (a *app) result(v any, format string, args ...any) error {
	if a.json {
		return a.printJSON(v)
	}
	return a.printf(format, args...)
}

func (v *volumeVerb) grow() *cobra.Command {
	return &cobra.Command{
		Use:   "grow VOLUME SIZE",
		Short: "Make a volume larger, also while it is in use",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := volume.ParseSize(args[1])
			if err != nil {
				return err
			}
			return v.with(cmd.Context(), func(s *volume.Store) error {
				if err := s.Grow(cmd.Context(), args[0], n); err != nil {
					return err
				}
				return v.app.result(map[string]any{"name": args[0], "size_bytes": n}, "%s has %s now\n", args[0], size(n))
			})
		},
	}
}

func (v *volumeVerb) trim() *cobra.Command {
	return &cobra.Command{
		Use:   "trim VOLUME",
		Short: "Give the space of deleted files back to the disk",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				before, after, err := s.Trim(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return v.app.result(map[string]any{"name": args[0], "before_bytes": before, "after_bytes": after},
					"%s takes %s on the disk, before %s\n", args[0], size(after), size(before))
			})
		},
	}
}

func (v *volumeVerb) purge() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge VOLUME",
		Short: "Begin a volume anew: a new, empty generation, the old one is destroyed",
		Long: `Begin a volume anew: a new, empty generation, the old one is destroyed, its key first.
Options that are given change the volume; everything else stays as it was.`,
		Args: cobra.ExactArgs(1),
	}
	opts := optionFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := optionMap(*opts)
		if err != nil {
			return err
		}
		change, err := volume.ParseChange(m)
		if err != nil {
			return err
		}
		return v.with(cmd.Context(), func(s *volume.Store) error {
			made, err := s.Purge(cmd.Context(), args[0], change)
			if err != nil {
				return err
			}
			return v.printMade(made)
		})
	}
	return cmd
}

func (v *volumeVerb) remove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove VOLUME...",
		Short: "Destroy volumes: their keys, then their images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				var errs []error
				for _, name := range args {
					err := s.Remove(cmd.Context(), name)
					if err == nil {
						err = v.app.result(map[string]string{"removed": name}, "removed %s\n", name)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
}

func (v *volumeVerb) gc() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove superseded generations, and what a crash left half done",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				done, err := s.GC(cmd.Context(), dry)
				if err != nil {
					return err
				}
				return v.printCollected(done, dry)
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be removed")
	return cmd
}

func (v *volumeVerb) printCollected(done []volume.Collected, dry bool) error {
	type row struct {
		Name  string `json:"name"`
		ID    string `json:"id"`
		Error string `json:"error,omitempty"`
	}
	rows := []row{}
	var errs []error
	for _, c := range done {
		r := row{Name: c.Volume.Name, ID: c.Volume.ID().String()}
		if c.Err != nil {
			r.Error = c.Err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", r.ID, c.Err))
		}
		rows = append(rows, r)
	}
	if v.app.json {
		return errors.Join(append(errs, v.app.printJSON(rows))...)
	}
	word := "removed"
	if dry {
		word = "would remove"
	}
	for _, r := range rows {
		if r.Error == "" {
			errs = append(errs, v.app.printf("%s %s (%s)\n", word, r.ID, r.Name))
		}
	}
	return errors.Join(errs...)
}

func (v *volumeVerb) mount() *cobra.Command {
	return &cobra.Command{
		Use:   "mount VOLUME PATH",
		Short: "Mount a volume on the host",
		Long: `Mount a volume on the host, before docker starts for example: docker's own data-root
can lie on one (layervault-volume@.service does that at boot). Nothing has to keep
running for the mount to stay.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.with(cmd.Context(), func(s *volume.Store) error {
				if err := s.MountAt(cmd.Context(), args[0], args[1]); err != nil {
					return err
				}
				return v.app.result(map[string]string{"name": args[0], "path": args[1]}, "%s is mounted at %s\n", args[0], args[1])
			})
		},
	}
}

func (v *volumeVerb) umount() *cobra.Command {
	return &cobra.Command{
		Use:   "umount VOLUME [PATH]",
		Short: "Unmount a volume from the host: from PATH, or from everywhere",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at := ""
			if len(args) == 2 {
				at = args[1]
			}
			return v.with(cmd.Context(), func(s *volume.Store) error { return s.UnmountHost(cmd.Context(), args[0], at) })
		},
	}
}

func (v *volumeVerb) key() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "key VOLUME",
		Short: "Write the LUKS2 passphrase of a volume's image, for stock cryptsetup",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := v.app.noKeyOnTerminal(out); err != nil {
				return err
			}
			return v.with(cmd.Context(), func(s *volume.Store) error {
				pass, err := s.Passphrase(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				defer clear(pass)
				return writeSecret(v.app.out, out, pass)
			})
		},
	}
	keyFileOut(cmd, &out)
	return cmd
}
